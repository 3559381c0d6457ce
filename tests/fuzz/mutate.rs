//! Changes of an input, drawn from a fixed sequence.

/// xorshift64: a fixed sequence, so that a failure can be repeated.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % limit.max(1) as u64).unwrap()
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap()
    }

    /// A range of an input's bytes, usually short.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let begin = self.below(length + 1);
        let longest = if self.below(4) == 0 { length } else { 16 };
        begin..(begin + self.below(longest + 1)).min(length)
    }
}

/// Changes an input in one place.
pub(crate) fn change(input: &mut Vec<u8>, other: &[u8], words: &[&[u8]], random: &mut Random) {
    let at = random.below(input.len());
    let range = random.range(input.len());
    match random.below(12) {
        0 if !input.is_empty() => input[at] ^= 1 << random.below(8),
        1 if !input.is_empty() => input[at] = random.byte(),
        // A digit for a digit: text stays well-formed and its numbers lie.
        2 => {
            let digits: Vec<usize> = (0..input.len()).filter(|&i| input[i].is_ascii_digit()).collect();
            if let Some(&digit) = digits.get(random.below(digits.len())) {
                input[digit] = b'0' + random.byte() % 10;
            }
        }
        // A length: two, four or eight bytes that are small, just off or as large as can be.
        3 => {
            let width = [2, 4, 8][random.below(3)];
            let value = match random.below(5) {
                0 => 0,
                1 => u64::MAX,
                2 => u64::MAX >> 1,
                3 => input.len() as u64,
                _ => random.below(1 << 10) as u64,
            };
            if let Some(field) = input.get_mut(at..at + width) {
                field.copy_from_slice(&value.to_le_bytes()[..width]);
            }
        }
        4 => input.truncate(at),
        5 => drop(input.drain(range)),
        6 => {
            let part = input[range].to_vec();
            drop(input.splice(at..at, part));
        }
        7 => {
            let part = other[random.range(other.len())].to_vec();
            drop(input.splice(range, part));
        }
        8 => {
            let begin = random.below(other.len());
            input.truncate(at);
            input.extend_from_slice(&other[begin..]);
        }
        9 | 10 => {
            let word = words[random.below(words.len())];
            let end = if random.below(2) == 0 {
                at
            } else {
                (at + word.len()).min(input.len())
            };
            drop(input.splice(at..end, word.iter().copied()));
        }
        _ if at + 1 < input.len() => {
            let byte = random.byte() % 7;
            input[at] = input[at].wrapping_add(byte).wrapping_sub(3);
        }
        _ => input.push(random.byte()),
    }
}
