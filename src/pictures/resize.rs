//! Pillow's `Image.resize`, to the bit.
//!
//! A filter is stretched by the scale when a picture shrinks, so that every input pixel counts. Each
//! output pixel is a weighted sum of a window of input pixels; weights are rounded to 22 fractional bits, and
//! between the pass over columns and that over rows lie bytes, so that clipped ringing does not come back. The order
//! of the two passes is therefore part of the definition: it moves pixels of a hard edge by a dozen levels.
//!
//! The crate `fast_image_resize` has the same kind of convolution, with weights of 16 bits or fewer and
//! roundings of its own: it differs from Pillow at single units, and brings more code than this file.
//!
//! Source: Pillow 13's `Resample.c` (convolutions) and `Geometry.c` (nearest), as definitions.

use crate::pictures::picture::Picture;

/// How pixels between pixels are made; numbered as Pillow's `Resampling`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// The one input pixel at the centre (0).
    Nearest,
    /// A windowed sinc of three lobes (1).
    Lanczos,
    /// A triangle (2).
    Bilinear,
    /// A cubic of Keys' family with a = -1/2 (3).
    Bicubic,
    /// The mean of the window (4).
    Box,
    /// A triangle with rounder shoulders (5).
    Hamming,
}

impl Filter {
    /// The filter of that number in Pillow.
    pub fn from_number(number: u64) -> Option<Self> {
        Some(match number {
            0 => Self::Nearest,
            1 => Self::Lanczos,
            2 => Self::Bilinear,
            3 => Self::Bicubic,
            4 => Self::Box,
            5 => Self::Hamming,
            _ => return None,
        })
    }

    /// The filter of that name, in any case, bare or as Python prints the member (`Resampling.BILINEAR`).
    pub fn from_name(name: &str) -> Option<Self> {
        let name = name.rsplit('.').next()?;
        let known = ["nearest", "lanczos", "bilinear", "bicubic", "box", "hamming"];
        let number = known.iter().position(|known| name.eq_ignore_ascii_case(known))?;
        Self::from_number(number as u64)
    }

    /// Half the width of the filter's window, in pixels of the coarser picture.
    const fn support(self) -> f64 {
        match self {
            Self::Nearest => 0.0, // has no window
            Self::Box => 0.5,
            Self::Bilinear | Self::Hamming => 1.0,
            Self::Bicubic => 2.0,
            Self::Lanczos => 3.0,
        }
    }

    /// The weight of a pixel at distance `x` from the centre.
    fn weight(self, x: f64) -> f64 {
        let distance = x.abs();
        match self {
            Self::Nearest => 0.0,
            Self::Box => f64::from(x > -0.5 && x <= 0.5),
            Self::Bilinear => (1.0 - distance).max(0.0),
            Self::Hamming => {
                if distance == 0.0 {
                    1.0
                } else if distance >= 1.0 {
                    0.0
                } else {
                    let x = distance * std::f64::consts::PI;
                    x.sin() / x * (0.54 + 0.46 * x.cos())
                }
            }
            Self::Bicubic => {
                const A: f64 = -0.5;
                if distance < 1.0 {
                    ((A + 2.0) * distance - (A + 3.0)) * distance * distance + 1.0
                } else if distance < 2.0 {
                    (((distance - 5.0) * distance + 8.0) * distance - 4.0) * A
                } else {
                    0.0
                }
            }
            Self::Lanczos => {
                if (-3.0..3.0).contains(&x) {
                    sinc(x) * sinc(x / 3.0)
                } else {
                    0.0
                }
            }
        }
    }
}

fn sinc(x: f64) -> f64 {
    if x == 0.0 {
        return 1.0;
    }
    let x = x * std::f64::consts::PI;
    x.sin() / x
}

/// Fractional bits of a weight: 8 of the 32 bits are the pixel's, 2 are room for sums of negative weights.
const WEIGHT_BITS: u32 = 32 - 8 - 2;

/// The input pixels that one output pixel is made of.
struct Window {
    first: usize,
    /// Fixed-point weights, [`WEIGHT_BITS`] behind the point.
    weights: Vec<i32>,
}

/// The picture at another size, neither side of which may be 0.
pub(super) fn resize(picture: &Picture, width: usize, height: usize, filter: Filter) -> Picture {
    if (width, height) == (picture.width, picture.height) {
        return picture.clone();
    }
    if filter == Filter::Nearest {
        return nearest(picture, width, height);
    }
    // A pass along a side that keeps its length changes nothing, and is left out as Pillow does.
    let across = |picture: &Picture| {
        (width != picture.width).then(|| columns(picture, &windows(picture.width, width, filter)))
    };
    let down = |picture: &Picture| {
        (height != picture.height).then(|| rows(picture, &windows(picture.height, height, filter)))
    };
    let (first, second) = if vertical_first(picture, width, height) {
        let first = down(picture);
        let second = across(first.as_ref().unwrap_or(picture));
        (first, second)
    } else {
        let first = across(picture);
        let second = down(first.as_ref().unwrap_or(picture));
        (first, second)
    };
    second.or(first).unwrap_or_else(|| picture.clone())
}

/// Whether rows are made before columns: since Pillow 13, where the height loses more than twice as many pixels as
/// the width, so that the second pass has less to do.
const fn vertical_first(picture: &Picture, width: usize, height: usize) -> bool {
    match picture.height.checked_sub(height) {
        None | Some(0) => false,
        Some(lost) => lost > picture.width.saturating_sub(width) * 2,
    }
}

/// For each of `output` pixels, the window over `input` pixels and its weights, which sum to 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "lengths are below 2^26, window ends are clamped to them, and weights are at most a few units"
)]
fn windows(input: usize, output: usize, filter: Filter) -> Vec<Window> {
    let scale = input as f64 / output as f64;
    let stretch = scale.max(1.0);
    let support = filter.support() * stretch;
    let shrink = 1.0 / stretch;
    (0..output)
        .map(|pixel| {
            let centre = (pixel as f64 + 0.5) * scale;
            // `as` cuts towards zero and takes what is below zero as zero.
            let first = (centre - support + 0.5) as usize;
            let end = ((centre + support + 0.5) as usize).min(input);
            let weights: Vec<f64> = (first..end)
                .map(|at| filter.weight((at as f64 - centre + 0.5) * shrink))
                .collect();
            let sum: f64 = weights.iter().sum();
            let weights = weights.iter().map(|&weight| {
                let weight = if sum == 0.0 { weight } else { weight / sum };
                let weight = weight * f64::from(1_u32 << WEIGHT_BITS);
                (if weight < 0.0 { weight - 0.5 } else { weight + 0.5 }) as i32
            });
            Window {
                first,
                weights: weights.collect(),
            }
        })
        .collect()
}

/// The byte that a fixed-point sum stands for.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to a byte first"
)]
fn byte(sum: i32) -> u8 {
    (sum >> WEIGHT_BITS).clamp(0, 255) as u8
}

/// Half a unit, so that the shift rounds.
const HALF: i32 = 1 << (WEIGHT_BITS - 1);

/// Along each row, one output pixel a window.
fn columns(picture: &Picture, windows: &[Window]) -> Picture {
    let mut rgb = Vec::with_capacity(picture.height * windows.len() * 3);
    for row in picture.rgb.chunks_exact(picture.width * 3) {
        for window in windows {
            let mut sums = [HALF; 3];
            for (pixel, &weight) in row[window.first * 3..].chunks_exact(3).zip(&window.weights) {
                for (sum, &value) in sums.iter_mut().zip(pixel) {
                    *sum += i32::from(value) * weight;
                }
            }
            rgb.extend(sums.map(byte));
        }
    }
    Picture {
        width: windows.len(),
        height: picture.height,
        rgb,
    }
}

/// Down each column, one output row a window.
fn rows(picture: &Picture, windows: &[Window]) -> Picture {
    let stride = picture.width * 3;
    let mut rgb = Vec::with_capacity(windows.len() * stride);
    let mut sums = vec![HALF; stride];
    for window in windows {
        sums.fill(HALF);
        for (row, &weight) in picture.rgb[window.first * stride..]
            .chunks_exact(stride)
            .zip(&window.weights)
        {
            for (sum, &value) in sums.iter_mut().zip(row) {
                *sum += i32::from(value) * weight;
            }
        }
        rgb.extend(sums.iter().map(|&sum| byte(sum)));
    }
    Picture {
        width: picture.width,
        height: windows.len(),
        rgb,
    }
}

/// Which of `input` pixels stands at the centre of each of `output`; the position is summed up step by step,
/// as Pillow does, since its rounding decides at exact halves.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "positions lie between 0 and a length below 2^26"
)]
fn centres(input: usize, output: usize) -> Vec<usize> {
    let step = input as f64 / output as f64;
    let mut position = step * 0.5;
    (0..output)
        .map(|_| {
            let at = (position as usize).min(input - 1);
            position += step;
            at
        })
        .collect()
}

fn nearest(picture: &Picture, width: usize, height: usize) -> Picture {
    let across = centres(picture.width, width);
    let mut rgb = Vec::with_capacity(width * height * 3);
    for y in centres(picture.height, height) {
        let row = &picture.rgb[y * picture.width * 3..];
        for &x in &across {
            rgb.extend_from_slice(&row[x * 3..x * 3 + 3]);
        }
    }
    Picture { width, height, rgb }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Filter; 6] = [
        Filter::Nearest,
        Filter::Lanczos,
        Filter::Bilinear,
        Filter::Bicubic,
        Filter::Box,
        Filter::Hamming,
    ];

    fn flat(width: usize, height: usize, value: u8) -> Picture {
        Picture {
            width,
            height,
            rgb: vec![value; width * height * 3],
        }
    }

    #[test]
    fn one_colour_stays_that_colour() {
        for filter in ALL {
            for (width, height) in [(1, 1), (7, 3), (40, 41), (3, 90)] {
                let resized = resize(&flat(17, 23, 201), width, height, filter);
                assert_eq!(resized, flat(width, height, 201), "{filter:?} {width} x {height}");
            }
        }
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let rgb = (0..60).collect();
        let picture = Picture {
            width: 4,
            height: 5,
            rgb,
        };
        for filter in ALL {
            assert_eq!(resize(&picture, 4, 5, filter), picture);
        }
    }

    #[test]
    fn a_box_of_two_is_the_mean() {
        let picture = Picture {
            width: 2,
            height: 1,
            rgb: vec![10, 20, 30, 13, 21, 255],
        };
        assert_eq!(resize(&picture, 1, 1, Filter::Box).rgb, [12, 21, 143]); // halves round up
    }

    #[test]
    fn filters_go_by_number_and_by_name() {
        for (number, filter) in (0..).zip(ALL) {
            assert_eq!(Filter::from_number(number), Some(filter));
            assert_eq!(Filter::from_name(&format!("Resampling.{filter:?}")), Some(filter));
        }
        assert_eq!(Filter::from_number(6), None);
        assert_eq!(Filter::from_name("nearest-exact"), None);
    }
}
