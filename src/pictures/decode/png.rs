//! PNG, by the crate `png`.

use std::io::Cursor;

use png::{ColorType, Transformations};

use super::rules::{Decoded, all_on_white, check_size, damaged, on_white, whole};
use crate::pictures::orientation::{orientation, upright};

/// The picture, or the first one of an animation. Of 16 bits a channel the upper 8 are taken.
pub(super) fn decode(bytes: &[u8]) -> Decoded {
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
                .flat_map(|&[grey, alpha]| on_white([grey; 3], alpha))
                .collect()
        }
        ColorType::Rgba => all_on_white(&samples),
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
