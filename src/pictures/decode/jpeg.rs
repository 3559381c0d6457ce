//! JPEG, by the crate `zune-jpeg`.

use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::{bytestream::ZCursor, colorspace::ColorSpace, options::DecoderOptions};

use super::rules::{Decoded, check_size, damaged, whole};
use crate::pictures::orientation::{orientation, upright};

/// The picture; CMYK and grey become RGB.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
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
