//! Several tasks' numbers for one place become one: their sum, or what TIES makes of them.
//!
//! Loops run over one task after the other, so that the compiler can work on several numbers at once.

use crate::{compute::narrow, merge::options::MajoritySign};

/// How TIES elects a sign.
pub(super) type Vote = MajoritySign;

/// How the pruned changes become one.
#[derive(Clone, Copy)]
pub(super) enum Combine {
    /// `sum_i w_i D_i`
    Sum,
    /// TIES: the weighted mean of those that have the elected sign.
    Elect(Vote),
}

impl Combine {
    /// Of the tasks' numbers, each with its weight.
    pub(super) fn apply(self, numbers: &[&[f32]], weights: &[f64]) -> Vec<f32> {
        match self {
            Self::Sum => sum(numbers, weights),
            Self::Elect(vote) => elect(numbers, weights, vote),
        }
    }
}

/// `sum_i w_i x_i`, number by number.
pub(super) fn sum(tasks: &[&[f32]], weights: &[f64]) -> Vec<f32> {
    let mut sum = vec![0.0; tasks.first().map_or(0, |numbers| numbers.len())];
    for (numbers, &weight) in tasks.iter().zip(weights) {
        let weight = narrow(weight);
        sum.iter_mut()
            .zip(*numbers)
            .for_each(|(sum, x)| *sum += weight * x);
    }
    sum
}

/// TIES' election and disjoint mean, as PEFT's `calculate_majority_sign_mask` and `disjoint_merge`: the sign of the
/// sum (of the numbers, or of their signs; plus if that is zero), then the sum of the weighted numbers of that sign,
/// divided by how many they are. Weights have no say in the election.
pub(super) fn elect(tasks: &[&[f32]], weights: &[f64], vote: Vote) -> Vec<f32> {
    let places = tasks.first().map_or(0, |numbers| numbers.len());
    let mut total = vec![0.0f32; places];
    for numbers in tasks {
        let votes = total.iter_mut().zip(*numbers);
        match vote {
            MajoritySign::Total => votes.for_each(|(total, x)| *total += x),
            MajoritySign::Frequency => votes.for_each(|(total, x)| *total += sign(*x)),
        }
    }
    let mut merged = vec![0.0f32; places];
    let mut count = vec![0.0f32; places];
    for (numbers, &weight) in tasks.iter().zip(weights) {
        let weight = narrow(weight);
        let places = merged.iter_mut().zip(&mut count).zip(&total).zip(*numbers);
        for (((merged, count), total), x) in places {
            let elected = if *total >= 0.0 { 1.0 } else { -1.0 };
            let agrees = if x * elected > 0.0 { 1.0 } else { 0.0 };
            *merged += agrees * weight * x;
            *count += agrees;
        }
    }
    merged
        .iter_mut()
        .zip(&count)
        .for_each(|(merged, count)| *merged /= count.max(1.0));
    merged
}

fn sign(x: f32) -> f32 {
    let plus = if x > 0.0 { 1.0 } else { 0.0 };
    let minus = if x < 0.0 { 1.0 } else { 0.0 };
    plus - minus
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_elected_sign_are_averaged() {
        let tasks: [&[f32]; 3] = [
            &[1.0, 1.0, 0.0, 2.0],
            &[2.0, 1.0, 0.0, -2.0],
            &[-4.0, -3.0, 0.0, 0.0],
        ];
        let weights = [1.0, 0.5, 2.0];
        // -1, -1, 0 and 0 in sum: minus, minus, nothing, plus.
        assert_eq!(elect(&tasks, &weights, Vote::Total), [-8.0, -6.0, 0.0, 2.0]);
        // More have plus in the first two.
        assert_eq!(elect(&tasks, &weights, Vote::Frequency), [1.0, 0.75, 0.0, 2.0]);
        assert_eq!(sum(&tasks, &weights), [-6.0, -4.5, 0.0, 1.0]);
    }
}
