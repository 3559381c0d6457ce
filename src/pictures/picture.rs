//! A decoded picture.

/// A decoded picture: upright RGB, 8 bits a channel, without transparency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    /// Pixels a row; at least 1.
    pub width: usize,
    /// Rows; at least 1.
    pub height: usize,
    /// `height` rows of `width` pixels of red, green and blue (0 to 255), top left first.
    pub rgb: Vec<u8>,
}
