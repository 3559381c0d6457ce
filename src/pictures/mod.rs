//! From the bytes of a picture to the numbers that an image model reads.
//!
//! [`decode`] makes upright RGB of a PNG, JPEG, WebP, GIF or BMP file, [`Processor`] does what the model's
//! `preprocessor_config.json` says: resize, crop, rescale, normalise. Both follow what Pillow and the
//! processors of transformers that work on it ("slow" ones, `…Pil` since transformers 5) compute, since
//! those numbers are what a model was trained and evaluated with: to the last bit, but for JPEG, up to what another
//! decoder rounds otherwise than libjpeg (2 of 255; where chroma has fewer pixels, more along hard edges and in the
//! last row and column).
//!
//! A decoded picture takes 3 bytes a pixel; with the limit of [`MAX_PIXELS`] that is 120 MB.

mod decode;
mod orientation;
mod picture;
mod processor;
mod resize;

pub use self::decode::{MAX_PIXELS, decode};
pub use self::picture::Picture;
pub use self::processor::{Pixels, Processor};
pub use self::resize::Filter;
