//! Choosing the next token from logits: the model's own rules, then the likeliest token or a draw.
//!
//! The rules and their order are those of transformers' `generate` (`generation/logits_process.py`).

use rand_pcg::{Pcg64, rand_core::Rng};

use crate::{
    generate::{Answer, Sampling},
    model::GenerationConfig,
};

/// One answer in the making.
pub(crate) struct Chooser<'a> {
    rules: &'a GenerationConfig,
    how: &'a Sampling,
    draws: Pcg64,
    /// What was read (a prompt, or a decoder's start token) and written.
    ids: Vec<u32>,
    read: usize,
    finished: bool,
}

impl<'a> Chooser<'a> {
    pub(crate) fn new(rules: &'a GenerationConfig, how: &'a Sampling, read: &[u32], stream: u64) -> Self {
        Self {
            rules,
            how,
            draws: Pcg64::new(u128::from(how.seed), u128::from(stream)),
            ids: read.to_vec(),
            read: read.len(),
            finished: false,
        }
    }

    /// Adds the next token, unless the answer has ended.
    pub(super) fn choose(&mut self, logits: &[f32]) {
        if !self.finished {
            let next = self.next(logits);
            self.push(next);
        }
    }

    /// The token that is to be written next.
    pub(crate) fn next(&mut self, logits: &[f32]) -> u32 {
        let mut scores = logits.to_vec();
        self.apply_rules(&mut scores);
        let next = if self.how.temperature > 0.0 {
            self.draw(&scores)
        } else {
            likeliest(&scores)
        };
        u32::try_from(next).unwrap_or(u32::MAX)
    }

    /// Takes `id` as written.
    pub(crate) fn push(&mut self, id: u32) {
        self.ids.push(id);
        self.finished = self.rules.stop.contains(&id);
    }

    /// Whether a stop token was written.
    pub(super) const fn finished(&self) -> bool {
        self.finished
    }

    /// The token written last.
    pub(super) fn last(&self) -> Option<u32> {
        self.ids.last().copied()
    }

    /// The position of the token written last.
    pub(super) fn position(&self) -> u32 {
        u32::try_from(self.ids.len() - 1).unwrap_or(u32::MAX)
    }

    pub(super) fn answer(self) -> Answer {
        Answer {
            ids: self.ids[self.read..].to_vec(),
            finished: self.finished,
        }
    }

    fn apply_rules(&self, scores: &mut [f32]) {
        let rules = self.rules;
        let written = self.ids.len() - self.read;
        let forbid = |scores: &mut [f32], ids: &[u32]| {
            for id in ids {
                if let Some(score) = scores.get_mut(*id as usize) {
                    *score = f32::NEG_INFINITY;
                }
            }
        };
        let force = |scores: &mut [f32], id: u32| {
            for (at, score) in scores.iter_mut().enumerate() {
                *score = if at == id as usize { 0.0 } else { f32::NEG_INFINITY };
            }
        };
        if let Some(penalty) = rules.repetition_penalty.map(crate::compute::narrow) {
            let mut seen = self.ids.clone();
            seen.sort_unstable();
            seen.dedup();
            for id in seen {
                if let Some(score) = scores.get_mut(id as usize) {
                    *score = if *score < 0.0 {
                        *score * penalty
                    } else {
                        *score / penalty
                    };
                }
            }
        }
        forbid(scores, &self.repeating(rules.no_repeat_ngram_size));
        if self.ids.len() < rules.min_length || written < rules.min_new_tokens {
            forbid(scores, &rules.stop);
        }
        if let Some(id) = rules.forced_bos.filter(|_| self.ids.len() == 1) {
            force(scores, id);
        }
        if let Some(id) = rules
            .forced_eos
            .filter(|_| written + 1 == self.how.max_new_tokens)
        {
            force(scores, id);
        }
        forbid(scores, &rules.suppressed);
        let begin = usize::from(self.read == 1 && rules.forced_bos.is_some());
        if written == begin {
            forbid(scores, &rules.suppressed_first);
        }
    }

    /// Tokens that would make a run of `size` tokens that was there before.
    fn repeating(&self, size: usize) -> Vec<u32> {
        if size == 0 || self.ids.len() + 1 < size {
            return Vec::new();
        }
        let end = &self.ids[self.ids.len() + 1 - size..];
        self.ids
            .windows(size)
            .filter(|run| run[..size - 1] == *end)
            .map(|run| run[size - 1])
            .collect()
    }

    /// A draw from softmax(scores / temperature), cut to the likeliest `top_p`.
    fn draw(&mut self, scores: &[f32]) -> usize {
        let largest = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let weight = |score: f32| (f64::from(score - largest) / self.how.temperature).exp();
        let mut weighted: Vec<(usize, f64)> = scores
            .iter()
            .map(|&score| weight(score))
            .enumerate()
            .filter(|(_, weight)| *weight > 0.0)
            .collect();
        weighted.sort_by(|a, b| b.1.total_cmp(&a.1));
        let total: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        let mut sum = 0.0;
        let enough = weighted.iter().position(|(_, weight)| {
            sum += weight;
            sum >= self.how.top_p * total
        });
        weighted.truncate(enough.map_or(weighted.len(), |at| at + 1));
        let kept: f64 = weighted.iter().map(|(_, weight)| weight).sum();
        // 53 random bits make a number from 0 to 1.
        let mut rest = (self.draws.next_u64() >> 11) as f64 / (1u64 << 53) as f64 * kept;
        for (id, weight) in &weighted {
            rest -= weight;
            if rest < 0.0 {
                return *id;
            }
        }
        weighted.last().map_or(0, |(id, _)| *id)
    }
}

/// The index of the largest score, the first of equals.
fn likeliest(scores: &[f32]) -> usize {
    let mut best = 0;
    for (id, score) in scores.iter().enumerate() {
        if *score > scores[best] {
            best = id;
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chooser<'a>(rules: &'a GenerationConfig, how: &'a Sampling, read: &[u32]) -> Chooser<'a> {
        Chooser::new(rules, how, read, 0)
    }

    #[test]
    fn a_stop_token_ends_the_answer_and_is_part_of_it() {
        let rules = GenerationConfig {
            stop: vec![3, 1],
            ..GenerationConfig::default()
        };
        let how = Sampling::greedy(5);
        let mut chooser = chooser(&rules, &how, &[7, 7]);
        chooser.choose(&[0.0, 0.5, 1.0, 0.0]);
        chooser.choose(&[0.0, 2.0, 1.0, 0.0]);
        chooser.choose(&[9.0, 0.0, 0.0, 0.0]);
        let answer = chooser.answer();
        assert_eq!((answer.ids, answer.finished), (vec![2, 1], true));
    }

    #[test]
    fn rules_of_the_model_hold() {
        let how = Sampling::greedy(3);
        let rules = GenerationConfig {
            stop: vec![0],
            min_new_tokens: 1,
            forced_eos: Some(0),
            no_repeat_ngram_size: 2,
            repetition_penalty: Some(2.0),
            suppressed: vec![5],
            ..GenerationConfig::default()
        };
        let mut chooser = chooser(&rules, &how, &[1, 2, 1]);
        // 0 would end too early, 5 is suppressed, 2 would repeat "1 2", 1 is halved: 3 is left.
        chooser.choose(&[9.0, 1.5, 8.0, 1.0, 0.5, 7.0]);
        // 3 and 1 are halved.
        chooser.choose(&[0.0, 1.5, 0.0, 1.5, 1.0, 7.0]);
        chooser.choose(&[0.0, 1.5, 0.0, 1.5, 1.0, 7.0]);
        assert_eq!(chooser.answer().ids, [3, 4, 0]);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let rules = GenerationConfig::default();
        let how = Sampling {
            max_new_tokens: 4000,
            temperature: 2.0,
            top_p: 0.9,
            seed: 11,
        };
        // exp(score / 2): 4, 2, 1, 0.5; of 7.5 in all, the first three have 0.93.
        let scores: Vec<f32> = [4.0f32, 2.0, 1.0, 0.5].map(|w| 2.0 * w.ln()).to_vec();
        let drawn = || {
            let mut chooser = chooser(&rules, &how, &[0]);
            (0..4000).for_each(|_| chooser.choose(&scores));
            chooser.answer().ids
        };
        let ids = drawn();
        assert_eq!(ids, drawn());
        for (id, expected) in [4.0 / 7.0, 2.0 / 7.0, 1.0 / 7.0, 0.0].into_iter().enumerate() {
            let share = ids.iter().filter(|&&drawn| drawn as usize == id).count() as f64 / 4000.0;
            // Four standard deviations of 4000 draws.
            assert!(
                (share - expected).abs() < 0.032,
                "{id}: {share} instead of {expected}"
            );
        }
    }
}
