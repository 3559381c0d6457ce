//! What holds for a picture of any format: how large it may be, and that transparency has white behind it.

use crate::pictures::picture::Picture;

/// The largest picture that is decoded: 40 megapixels, more than a model of any kind reads and 120 MB as RGB.
pub const MAX_PIXELS: usize = 40_000_000;

/// A picture, or what is wrong with it in words that the file's name is put behind.
pub(super) type Decoded = Result<Picture, String>;

/// Refuses sizes that are no picture or too large a one.
pub(super) fn check_size(width: usize, height: usize) -> Result<(), String> {
    match width.checked_mul(height) {
        Some(0) => Err("The picture has no pixels".to_owned()),
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(format!(
            "The picture has {width} x {height} pixels, more than the 40 megapixels that are decoded; make it smaller"
        )),
    }
}

pub(super) fn damaged(error: impl std::fmt::Display) -> String {
    format!("The picture cannot be decoded ({error})")
}

/// The picture, if a decoder gave as many bytes as the header promised.
pub(super) fn whole(width: usize, height: usize, rgb: Vec<u8>) -> Decoded {
    if rgb.len() != width * height * 3 {
        return Err(damaged("it has fewer pixels than its header says"));
    }
    Ok(Picture { width, height, rgb })
}

/// Pixels of red, green, blue and alpha as RGB in front of white.
pub(super) fn all_on_white(rgba: &[u8]) -> Vec<u8> {
    let (pixels, _) = rgba.as_chunks::<4>();
    pixels
        .iter()
        .flat_map(|&[red, green, blue, alpha]| on_white([red, green, blue], alpha))
        .collect()
}

/// A colour in front of white.
pub(super) fn on_white(rgb: [u8; 3], alpha: u8) -> [u8; 3] {
    rgb.map(|value| channel_on_white(value, alpha))
}

/// A channel's value in front of white: the rounded mean of it and 255 by alpha, in Pillow's integers.
#[expect(clippy::cast_possible_truncation, reason = "a mean of two bytes is a byte")]
fn channel_on_white(value: u8, alpha: u8) -> u8 {
    const BITS: u32 = 7; // that Pillow keeps behind the point
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    let sum = ((value * alpha + 255 * (255 - alpha)) << BITS) + (0x80 << BITS);
    ((((sum >> 8) + sum) >> 8) >> BITS) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_composited_with_pillows_rounding() {
        // Image.alpha_composite of (10, 20, 30, 128) on white.
        assert_eq!(on_white([10, 20, 30], 128), [132, 137, 142]);
        for value in 0..=255 {
            assert_eq!(channel_on_white(value, 255), value);
            assert_eq!(channel_on_white(value, 0), 255);
        }
    }
}
