//! Files of pictures to upright RGB.
//!
//! Crates of one purpose each are used without `image` around them: fewer of them, and the choices that `image` makes
//! in between (what becomes of alpha, palettes, 16 bits) are Pillow's to make here.

mod bmp;
mod gif;
mod jpeg;
mod png;
mod rules;
mod webp;

pub use self::rules::MAX_PIXELS;
use crate::{
    error::{Code, Error, Result},
    pictures::picture::Picture,
};

/// The picture in `bytes`, a PNG, JPEG, WebP, GIF or BMP file called `name`: turned upright as its metadata says, palette
/// and grey made RGB, transparency composited on white, and of 16 bits a channel the upper 8 taken.
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
        Kind::Png => png::decode(bytes),
        Kind::Jpeg => jpeg::decode(bytes),
        Kind::WebP => webp::decode(bytes),
        Kind::Gif => gif::decode(bytes),
        Kind::Bmp => bmp::decode(bytes),
        Kind::Other(what) => Err(format!(
            "The file is {what}; pictures are read as PNG, JPEG, WebP, GIF or BMP, so save it as one of these"
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
    WebP,
    Gif,
    Bmp,
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
    } else if is(b"RIFF") && holds(8, b"WEBP") {
        Kind::WebP
    } else if is(b"GIF87a") || is(b"GIF89a") {
        Kind::Gif
    } else if is(b"BM") {
        Kind::Bmp
    } else {
        Kind::Other(if bytes.is_empty() {
            "empty"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_file_is_named() {
        for (bytes, what) in [
            (&b""[..], "empty"),
            (b"II*\0\x08\0\0\0", "TIFF"),
            (b"\0\0\0\x1cftypavif", "AVIF"),
            (b"\0\0\0\x1cftypheic", "HEIC"),
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
        // Headers alone, of 32 bytes at most: whoever took memory for the pixels would not get so far as to say so.
        let png = |width: u32, height: u32| {
            let [width, height] = [width, height].map(u32::to_be_bytes);
            [&b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"[..], &width, &height].concat()
        };
        let bmp = |width: u32, height: u32| {
            let [width, height] = [width, height].map(u32::to_le_bytes);
            let more = [&b"\x01\0\x18\0"[..], &[0; 24]].concat();
            [
                &b"BM\0\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0"[..],
                &width,
                &height,
                &more,
            ]
            .concat()
        };
        let refusal = |bytes: &[u8]| decode(bytes, "x").unwrap_err().to_string();
        for header in [&png as &dyn Fn(u32, u32) -> Vec<u8>, &bmp] {
            assert!(refusal(&header(8000, 5001)).contains("40 megapixels"));
            assert!(refusal(&header(u32::MAX, 0x7fff_ffff)).contains("40 megapixels"));
            assert!(refusal(&header(0, 5)).contains("no pixels"));
            assert!(refusal(&header(8000, 5000)).contains("cannot be decoded"));
        }
        let gif = b"GIF89a\x40\x1f\x89\x13\x80\0\0\0\0\0\xff\xff\xff,\0\0\0\0\x01\0\x01\0\0\x02\x01";
        assert!(refusal(gif).contains("40 megapixels"));
        let webp = |chunks: &[u8]| {
            let size = u32::try_from(chunks.len() + 4).unwrap().to_le_bytes();
            [&b"RIFF"[..], &size, b"WEBP", chunks].concat()
        };
        let lossy = b"VP8 \x0a\0\0\0\x10\0\0\x9d\x01\x2a\xff\x3f\xff\x3f";
        assert!(refusal(&webp(lossy)).contains("40 megapixels"));
        // A canvas of one pixel, whose picture is larger.
        let canvas = b"VP8X\x0a\0\0\0\0\0\0\0\0\0\0\0\0\0";
        assert!(refusal(&webp(&[&canvas[..], lossy].concat())).contains("40 megapixels"));
    }
}
