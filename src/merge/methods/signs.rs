//! Several tasks' numbers for one place become one: their sum, or what TIES makes of them.

use crate::merge::options::MajoritySign;

/// How TIES elects a sign.
pub(super) type Vote = MajoritySign;

/// `sum_i w_i x_i`, number by number.
pub(super) fn sum(tasks: &[Vec<f64>], weights: &[f64]) -> Vec<f64> {
    let mut sum = vec![0.0; tasks.first().map_or(0, Vec::len)];
    for (numbers, weight) in tasks.iter().zip(weights) {
        sum.iter_mut()
            .zip(numbers)
            .for_each(|(sum, x)| *sum += weight * x);
    }
    sum
}

/// TIES' election and disjoint mean, as PEFT's `calculate_majority_sign_mask` and `disjoint_merge`: the sign of the
/// sum (of the numbers, or of their signs; plus if that is zero), then the sum of the weighted numbers of that sign,
/// divided by how many they are. Weights have no say in the election.
pub(super) fn elect(tasks: &[Vec<f64>], weights: &[f64], vote: Vote) -> Vec<f64> {
    let sign = |x: f64| if x == 0.0 { 0.0 } else { x.signum() };
    (0..tasks.first().map_or(0, Vec::len))
        .map(|place| {
            let numbers = || tasks.iter().map(|numbers| numbers[place]);
            let total: f64 = match vote {
                MajoritySign::Total => numbers().sum(),
                MajoritySign::Frequency => numbers().map(sign).sum(),
            };
            let elected = if total >= 0.0 { 1.0 } else { -1.0 };
            let mut merged = 0.0;
            let mut count = 0u32;
            for (x, weight) in numbers().zip(weights) {
                if sign(x) == elected {
                    merged += weight * x;
                    count += 1;
                }
            }
            merged / f64::from(count.max(1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_the_elected_sign_are_averaged() {
        let tasks = [
            vec![1.0, 1.0, 0.0, 2.0],
            vec![2.0, 1.0, 0.0, -2.0],
            vec![-4.0, -3.0, 0.0, 0.0],
        ];
        let weights = [1.0, 0.5, 2.0];
        // -1, -1, 0 and 0 in sum: minus, minus, nothing, plus.
        assert_eq!(elect(&tasks, &weights, Vote::Total), [-8.0, -6.0, 0.0, 2.0]);
        // More have plus in the first two.
        assert_eq!(elect(&tasks, &weights, Vote::Frequency), [1.0, 0.75, 0.0, 2.0]);
        assert_eq!(sum(&tasks, &weights), [-6.0, -4.5, 0.0, 1.0]);
    }
}
