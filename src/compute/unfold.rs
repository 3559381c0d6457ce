//! The windows of a convolution, unfolded into rows, so that a convolution is a linear layer over them.

use burn::tensor::Tensor;

use crate::compute::{Compute, Path, Sequence, host_now};

/// Height and width of a picture, a latent, or what a convolution makes of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Rows of places.
    pub height: usize,
    /// Places a row.
    pub width: usize,
}

impl Grid {
    /// How many places.
    pub const fn places(self) -> usize {
        self.height * self.width
    }
}

/// The windows that a convolution looks through, as PyTorch's `Conv2d` has them; height comes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Sides of a window.
    pub kernel: [usize; 2],
    /// Places from one window to the next.
    pub stride: [usize; 2],
    /// Places of zeros around the grid.
    pub padding: [usize; 2],
}

impl Windows {
    /// How many windows lie over a grid; none if not one fits.
    pub fn over(&self, grid: Grid) -> Option<Grid> {
        let side = |size: usize, at: usize| {
            let free = (size + 2 * self.padding[at]).checked_sub(self.kernel[at])?;
            Some(free / self.stride[at].max(1) + 1)
        };
        Some(Grid {
            height: side(grid.height, 0)?,
            width: side(grid.width, 1)?,
        })
    }

    /// Places of one window.
    pub const fn places(&self) -> usize {
        self.kernel[0] * self.kernel[1]
    }

    /// The place of a grid that each place of each window lies on, window by window; none outside the grid.
    fn covered(&self, grid: Grid) -> Vec<Option<usize>> {
        let Some(out) = self.over(grid) else {
            return Vec::new();
        };
        let mut covered = Vec::with_capacity(out.places() * self.places());
        for (top, left) in (0..out.height).flat_map(|y| (0..out.width).map(move |x| (y, x))) {
            for (down, right) in (0..self.kernel[0]).flat_map(|y| (0..self.kernel[1]).map(move |x| (y, x))) {
                let y = (top * self.stride[0] + down).checked_sub(self.padding[0]);
                let x = (left * self.stride[1] + right).checked_sub(self.padding[1]);
                let inside = y.zip(x).filter(|&(y, x)| y < grid.height && x < grid.width);
                covered.push(inside.map(|(y, x)| y * grid.width + x));
            }
        }
        covered
    }
}

impl Compute {
    /// The windows of `x` (a row a place, a column a channel), a row each: (windows x channels * window), channels
    /// first as PyTorch's `unfold` and a flattened `Conv2d` weight have them. `grids` says where in `x` each sample's
    /// grid lies.
    pub fn unfold(&self, x: Tensor<2>, grids: &[(Sequence, Grid)], windows: &Windows) -> Tensor<2> {
        let [rows, channels] = x.dims();
        let size = windows.places();
        match self.path {
            Path::Kernels => {
                let (data, _) = host_now(x);
                let mut out = Vec::new();
                for (sequence, grid) in grids {
                    let covered = windows.covered(*grid);
                    for window in covered.chunks_exact(size) {
                        for channel in 0..channels {
                            out.extend(window.iter().map(|place| {
                                place.map_or(0.0, |place| data[(sequence.start + place) * channels + channel])
                            }));
                        }
                    }
                }
                let count = out.len() / (channels * size);
                self.tensor(out, count, channels * size)
            }
            Path::Tensors => {
                // What lies outside a grid is one more row, of zeros.
                let zeros = self.tensor(vec![0.0; channels], 1, channels);
                let padded = Tensor::cat(vec![x, zeros], 0);
                let indices: Vec<usize> = grids
                    .iter()
                    .flat_map(|(sequence, grid)| {
                        let covered = windows.covered(*grid).into_iter();
                        covered.map(|place| place.map_or(rows, |place| sequence.start + place))
                    })
                    .collect();
                let count = indices.len() / size;
                padded
                    .select(0, self.indices(&indices))
                    .reshape([count, size, channels])
                    .swap_dims(1, 2)
                    .reshape([count, channels * size])
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn square(side: usize, stride: usize, padding: usize) -> Windows {
        Windows {
            kernel: [side; 2],
            stride: [stride; 2],
            padding: [padding; 2],
        }
    }

    #[test]
    fn windows_are_counted_as_pytorch_counts_them() {
        let grid = Grid { height: 7, width: 6 };
        for (windows, wanted) in [
            (square(1, 1, 0), Some((7, 6))),
            (square(3, 1, 1), Some((7, 6))),
            (square(3, 2, 1), Some((4, 3))),
            (square(3, 2, 0), Some((3, 2))),
            (square(8, 1, 0), None),
        ] {
            let found = windows.over(grid).map(|grid| (grid.height, grid.width));
            assert_eq!(found, wanted, "{windows:?}");
        }
    }

    #[test]
    fn both_paths_unfold_alike_and_samples_keep_apart() {
        let grid = Grid { height: 3, width: 2 };
        let place = |start| Sequence {
            start,
            length: 6,
            attended: 6,
        };
        let data: Vec<f32> = (0..24u8).map(f32::from).collect();
        let unfolded = [
            Compute::cpu(),
            Compute::tensors(burn::tensor::Device::flex(), "tensors"),
        ]
        .map(|compute| {
            let x = compute.tensor(data.clone(), 12, 2);
            let grids = [(place(0), grid), (place(6), grid)];
            let out = compute.unfold(x, &grids, &square(3, 1, 1));
            (out.dims(), host_now(out).0)
        });
        assert_eq!(unfolded[0], unfolded[1]);
        let ([rows, columns], numbers) = &unfolded[0];
        assert_eq!((*rows, *columns), (12, 18));
        // The first window of the second sample: its corner, both channels.
        let wanted = [0, 0, 0, 0, 12, 14, 0, 16, 18, 0, 0, 0, 0, 13, 15, 0, 17, 19u8];
        assert_eq!(numbers[6 * 18..7 * 18], wanted.map(f32::from));
    }
}
