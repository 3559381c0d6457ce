//! Cutting the output of a fused layer (query, key and value in one; gate and up in one) into its parts.

use burn::tensor::Tensor;

use crate::compute::{Compute, Path, host_now};

impl Compute {
    /// The parts of `x` (rows x groups * the sum of `widths`): part i is (rows x groups * widths[i]), of
    /// every group the columns behind those of the parts before it.
    ///
    /// One group is GPT-2's `c_attn`, all queries before all keys; as many groups as heads is GPT-NeoX's
    /// `query_key_value`, a head's query, key and value side by side.
    pub fn split<const N: usize>(&self, x: Tensor<2>, groups: usize, widths: [usize; N]) -> [Tensor<2>; N] {
        let group: usize = widths.iter().sum();
        let [rows, columns] = x.dims();
        assert_eq!(columns, groups * group, "the parts are all of the columns");
        let mut from = 0;
        match self.path {
            Path::Kernels => {
                let (data, _) = host_now(x);
                widths.map(|width| {
                    let mut part = Vec::with_capacity(rows * groups * width);
                    for all in data.chunks_exact(group) {
                        part.extend_from_slice(&all[from..from + width]);
                    }
                    from += width;
                    self.tensor(part, rows, groups * width)
                })
            }
            Path::Tensors => {
                let x = x.reshape([rows * groups, group]);
                widths.map(|width| {
                    let part = x.clone().slice([0..rows * groups, from..from + width]);
                    from += width;
                    part.reshape([rows, groups * width])
                })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_group_is_cut_alike_on_both_paths() {
        let devices = [
            Compute::cpu(),
            Compute::tensors(burn::tensor::Device::flex(), "tensors"),
        ];
        for compute in devices {
            let data: Vec<f32> = (0..24u8).map(f32::from).collect();
            let numbers = |x: Tensor<2>| (x.dims(), host_now(x).0);
            let [a, b] = compute.split(compute.tensor(data.clone(), 2, 12), 2, [4, 2]);
            let expected = [0, 1, 2, 3, 6, 7, 8, 9, 12, 13, 14, 15, 18, 19, 20, 21u8];
            assert_eq!(numbers(a), ([2, 8], expected.map(f32::from).to_vec()));
            let expected = [4, 5, 10, 11, 16, 17, 22, 23u8];
            assert_eq!(numbers(b), ([2, 4], expected.map(f32::from).to_vec()));
            let [first, last] = compute.split(compute.tensor(data, 2, 12), 1, [5, 7]);
            assert_eq!(
                (first.dims(), numbers(last).1[0]),
                ([2, 5], 5.0),
                "one group is cut once"
            );
        }
    }
}
