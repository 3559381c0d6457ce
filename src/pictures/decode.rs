//! PNG and JPEG files to upright RGB.
//!
//! The crates `png` and `zune-jpeg` are used without `image` around them: three crates of one purpose instead
//! of ten, and the choices that `image` makes in between (what becomes of alpha, palettes, 16 bits) are
//! Pillow's to make here.

use std::io::Cursor;

use png::{ColorType, Transformations};
use zune_jpeg::zune_core::{colorspace::ColorSpace, options::DecoderOptions};
use zune_jpeg::{JpegDecoder, zune_core::bytestream::ZCursor};

use crate::{
    error::{Code, Error, Result},
    pictures::{
        orientation::{orientation, upright},
        picture::Picture,
    },
};

/// The largest picture that is decoded: 40 megapixels, more than a model of any kind reads and 120 MB as RGB.
pub const MAX_PIXELS: usize = 40_000_000;

/// The picture in `bytes`, a PNG or JPEG file called `name`: turned upright as its metadata says, palette and
/// grey made RGB, transparency composited on white, and of 16 bits a channel the upper 8 taken.
///
/// These are the bytes that Pillow gives (`exif_transpose`, transformers' `convert_to_rgb`), with one difference
/// on purpose: grey with 16 bits it cuts off at 255, which leaves white. Colour profiles and gamma are not
/// applied, by Pillow neither. Of an animation, the first picture counts.
///
/// # Errors
/// [`Code::SamplesInvalid`] naming the file: it is another kind of file, is damaged or cut off, has no pixels,
/// or more than [`MAX_PIXELS`] (found out before memory is taken for them).
pub fn decode(bytes: &[u8], name: &str) -> Result<Picture> {
    let picture = match kind(bytes) {
        Kind::Png => decode_png(bytes),
        Kind::Jpeg => decode_jpeg(bytes),
        Kind::Other(what) => Err(format!(
            "The file is {what}; pictures are read as PNG or JPEG, so save it as one of these"
        )),
    };
    picture.map_err(|what| refused(&what, name))
}

/// A picture that is not taken, and why.
pub(super) fn refused(what: &str, name: &str) -> Error {
    Error::new(Code::SamplesInvalid, format!("{what}: {name}"))
}

/// What a file is by its first bytes.
enum Kind {
    Png,
    Jpeg,
    /// Something else, in words that follow "is".
    Other(&'static str),
}

fn kind(bytes: &[u8]) -> Kind {
    let is = |start: &[u8]| bytes.starts_with(start);
    let holds = |at: usize, what: &[u8]| bytes.get(at..).is_some_and(|rest| rest.starts_with(what));
    if is(b"\x89PNG\r\n\x1a\n") {
        Kind::Png
    } else if is(b"\xff\xd8\xff") {
        Kind::Jpeg
    } else {
        Kind::Other(if bytes.is_empty() {
            "empty"
        } else if is(b"RIFF") && holds(8, b"WEBP") {
            "a WebP picture"
        } else if is(b"GIF8") {
            "a GIF picture"
        } else if is(b"BM") {
            "a BMP picture"
        } else if is(b"II*\0") || is(b"MM\0*") {
            "a TIFF picture"
        } else if holds(4, b"ftypavif") {
            "an AVIF picture"
        } else if holds(4, b"ftyp") {
            "a HEIC picture or a video"
        } else {
            "no picture that is known here"
        })
    }
}

/// Refuses sizes that are no picture or too large a one.
fn check_size(width: usize, height: usize) -> std::result::Result<(), String> {
    match width.checked_mul(height) {
        Some(0) => Err("The picture has no pixels".to_owned()),
        Some(pixels) if pixels <= MAX_PIXELS => Ok(()),
        _ => Err(format!(
            "The picture has {width} x {height} pixels, more than the 40 megapixels that are decoded; make it smaller"
        )),
    }
}

fn damaged(error: impl std::fmt::Display) -> String {
    format!("The picture cannot be decoded ({error})")
}

fn decode_png(bytes: &[u8]) -> std::result::Result<Picture, String> {
    // The header chunk comes first and always has this layout; the decoder checks the rest.
    let side = |at: usize| {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    };
    let (Some(width), Some(height)) = (side(16), side(20)) else {
        return Err(damaged("it ends within its header"));
    };
    check_size(width, height)?;

    let mut decoder = png::Decoder::new(Cursor::new(bytes));
    decoder.set_transformations(Transformations::EXPAND | Transformations::STRIP_16);
    decoder.set_ignore_iccp_chunk(true);
    let mut reader = decoder.read_info().map_err(damaged)?;
    let size = reader
        .output_buffer_size()
        .ok_or_else(|| damaged("its rows are too long"))?;
    let mut samples = vec![0; size];
    let frame = reader.next_frame(&mut samples).map_err(damaged)?;
    samples.truncate(frame.buffer_size());
    let rgb = match frame.color_type {
        ColorType::Rgb => samples,
        ColorType::Grayscale => samples.iter().flat_map(|&grey| [grey; 3]).collect(),
        ColorType::GrayscaleAlpha => {
            let (pixels, _) = samples.as_chunks::<2>();
            pixels
                .iter()
                .flat_map(|&[grey, alpha]| [on_white(grey, alpha); 3])
                .collect()
        }
        ColorType::Rgba => {
            let (pixels, _) = samples.as_chunks::<4>();
            let composite =
                |&[red, green, blue, alpha]: &[u8; 4]| [red, green, blue].map(|value| on_white(value, alpha));
            pixels.iter().flat_map(composite).collect()
        }
        ColorType::Indexed => return Err(damaged("its palette is missing")),
    };
    let picture = whole(width, height, rgb)?;
    // The orientation may stand behind the pixels. What else is wrong there does not change them.
    let _ = reader.finish();
    let info = reader.info();
    let xmp = info
        .utf8_text
        .iter()
        .find(|text| text.keyword == "XML:com.adobe.xmp");
    let xmp = xmp.and_then(|text| text.get_text().ok());
    let orientation = orientation(info.exif_metadata.as_deref(), xmp.as_deref().map(str::as_bytes));
    Ok(upright(picture, orientation))
}

/// A channel's value in front of white: the rounded mean of it and 255 by alpha, in Pillow's integers.
#[expect(clippy::cast_possible_truncation, reason = "a mean of two bytes is a byte")]
fn on_white(value: u8, alpha: u8) -> u8 {
    const BITS: u32 = 7; // that Pillow keeps behind the point
    let (value, alpha) = (u32::from(value), u32::from(alpha));
    let sum = ((value * alpha + 255 * (255 - alpha)) << BITS) + (0x80 << BITS);
    ((((sum >> 8) + sum) >> 8) >> BITS) as u8
}

fn decode_jpeg(bytes: &[u8]) -> std::result::Result<Picture, String> {
    if !has_end(bytes) {
        return Err(damaged("it is cut off"));
    }
    let options = DecoderOptions::default()
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or_else(|| damaged("it has no header"))?;
    check_size(width, height)?;
    let rgb = decoder.decode().map_err(damaged)?;
    let orientation = orientation(
        decoder.exif().map(Vec::as_slice),
        decoder.xmp().map(Vec::as_slice),
    );
    Ok(upright(whole(width, height, rgb)?, orientation))
}

/// Whether an end marker follows the first scan. The decoder would fill what is missing with grey, and a
/// thumbnail in the metadata before has an end marker of its own.
fn has_end(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    let mut rest = bytes.get(2..).unwrap_or_default();
    loop {
        match rest {
            [0xff, START_OF_SCAN, scan @ ..] => return scan.windows(2).any(|pair| pair == [0xff, 0xd9]),
            [0xff, 0xff, ..] => rest = &rest[1..],
            [0xff, _, upper, lower, ..] => {
                let length = usize::from(u16::from_be_bytes([*upper, *lower]));
                rest = rest.get(2 + length..).unwrap_or_default();
            }
            [_, after @ ..] => rest = after,
            [] => return false,
        }
    }
}

/// The picture, if a decoder gave as many bytes as the header promised.
fn whole(width: usize, height: usize, rgb: Vec<u8>) -> std::result::Result<Picture, String> {
    if rgb.len() != width * height * 3 {
        return Err(damaged("it has fewer pixels than its header says"));
    }
    Ok(Picture { width, height, rgb })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alpha_is_composited_with_pillows_rounding() {
        // Image.alpha_composite of (10, 20, 30, 128) on white.
        assert_eq!([10, 20, 30].map(|value| on_white(value, 128)), [132, 137, 142]);
        for value in 0..=255 {
            assert_eq!(on_white(value, 255), value);
            assert_eq!(on_white(value, 0), 255);
        }
    }

    #[test]
    fn another_kind_of_file_is_named() {
        for (bytes, what) in [
            (&b""[..], "empty"),
            (b"RIFF\0\0\0\0WEBPVP8 ", "WebP"),
            (b"GIF89a", "GIF"),
            (b"BM", "BMP"),
            (b"<html>", "no picture"),
        ] {
            let error = decode(bytes, "x.png").unwrap_err();
            assert_eq!(error.code(), Code::SamplesInvalid);
            assert!(error.to_string().contains(what), "{error}");
            assert!(error.to_string().ends_with("x.png"), "{error}");
        }
    }

    #[test]
    fn a_size_is_refused_by_its_header() {
        let header = |width: u32, height: u32| {
            let mut bytes = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
            bytes.extend(width.to_be_bytes());
            bytes.extend(height.to_be_bytes());
            bytes
        };
        let refusal = |bytes: &[u8]| decode(bytes, "x.png").unwrap_err().to_string();
        assert!(refusal(&header(8000, 5001)).contains("40 megapixels"));
        assert!(refusal(&header(u32::MAX, u32::MAX)).contains("40 megapixels"));
        assert!(refusal(&header(0, 5)).contains("no pixels"));
        assert!(refusal(&header(8000, 5000)).contains("cannot be decoded"));
    }
}
