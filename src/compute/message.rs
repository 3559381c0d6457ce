//! What passes between workers: numbers one after another, every list with its length before it, little-endian.

use crate::error::{Code, Error, Result};

/// A message that is being written.
#[derive(Default)]
pub struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// Adds a count, a place or a choice.
    #[must_use]
    pub fn number(mut self, number: usize) -> Self {
        self.bytes.extend((number as u64).to_le_bytes());
        self
    }

    /// Adds a number.
    #[must_use]
    pub fn float(mut self, number: f64) -> Self {
        self.bytes.extend(number.to_le_bytes());
        self
    }

    /// Adds a list.
    #[must_use]
    pub fn list<T: Element>(self, numbers: &[T]) -> Self {
        let mut message = self.number(numbers.len());
        T::append(numbers, &mut message.bytes);
        message
    }

    /// Adds every item of a list, with their count before them.
    #[must_use]
    pub fn each<T>(self, items: impl ExactSizeIterator<Item = T>, add: impl Fn(Self, T) -> Self) -> Self {
        let message = self.number(items.len());
        items.fold(message, add)
    }

    /// The message so far.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The message.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads what a [`Message`] holds, in the same order.
pub struct MessageReader<'b> {
    bytes: &'b [u8],
}

impl<'b> MessageReader<'b> {
    /// From the beginning.
    pub const fn new(bytes: &'b [u8]) -> Self {
        Self { bytes }
    }

    fn eight(&mut self) -> Result<[u8; 8]> {
        let (&eight, rest) = self.bytes.split_first_chunk().ok_or_else(mangled)?;
        self.bytes = rest;
        Ok(eight)
    }

    /// See [`Message::number`].
    ///
    /// # Errors
    /// [`Code::Internal`] where the message ends before, as with all that follow.
    pub fn number(&mut self) -> Result<usize> {
        usize::try_from(u64::from_le_bytes(self.eight()?)).map_err(|_| mangled())
    }

    /// See [`Message::float`].
    ///
    /// # Errors
    /// As [`number`](Self::number).
    pub fn float(&mut self) -> Result<f64> {
        Ok(f64::from_le_bytes(self.eight()?))
    }

    /// See [`Message::list`].
    ///
    /// # Errors
    /// As [`number`](Self::number).
    pub fn list<T: Element>(&mut self) -> Result<Vec<T>> {
        Ok(T::numbers(self.list_bytes::<T>()?).collect())
    }

    /// Adds the numbers of a list to those of `to`.
    ///
    /// # Errors
    /// As [`number`](Self::number), and where it is of another length.
    pub fn add_list<T: Element + std::ops::AddAssign>(&mut self, to: &mut [T]) -> Result<()> {
        let bytes = self.list_bytes::<T>()?;
        if bytes.len() != to.len() * T::SIZE {
            return Err(mangled());
        }
        to.iter_mut()
            .zip(T::numbers(bytes))
            .for_each(|(to, number)| *to += number);
        Ok(())
    }

    /// See [`Message::each`].
    ///
    /// # Errors
    /// As [`number`](Self::number), and whatever reading an item reports.
    pub fn each<T>(&mut self, mut read: impl FnMut(&mut Self) -> Result<T>) -> Result<Vec<T>> {
        let count = self.number()?;
        (0..count).map(|_| read(self)).collect()
    }

    fn list_bytes<T: Element>(&mut self) -> Result<&'b [u8]> {
        let length = self.number()?.checked_mul(T::SIZE).ok_or_else(mangled)?;
        let (bytes, rest) = self.bytes.split_at_checked(length).ok_or_else(mangled)?;
        self.bytes = rest;
        Ok(bytes)
    }
}

/// What is said where a message cannot be read.
pub fn mangled() -> Error {
    Error::new(
        Code::Internal,
        "what a worker was told or answered cannot be read",
    )
}

/// A number of a list.
pub trait Element: Copy {
    /// Bytes of one.
    const SIZE: usize;
    /// Appends numbers to a message.
    fn append(numbers: &[Self], to: &mut Vec<u8>);
    /// The numbers that bytes hold.
    fn numbers(bytes: &[u8]) -> impl Iterator<Item = Self>;
}

macro_rules! element {
    ($($number:ty),*) => {$(
        impl Element for $number {
            const SIZE: usize = size_of::<$number>();

            fn append(numbers: &[Self], to: &mut Vec<u8>) {
                let start = to.len();
                to.resize(start + Self::SIZE * numbers.len(), 0);
                let places = to[start..].as_chunks_mut::<{ size_of::<$number>() }>().0;
                for (place, number) in places.iter_mut().zip(numbers) {
                    *place = number.to_le_bytes();
                }
            }

            fn numbers(bytes: &[u8]) -> impl Iterator<Item = Self> {
                let places = bytes.as_chunks::<{ size_of::<$number>() }>().0;
                places.iter().map(|&place| Self::from_le_bytes(place))
            }
        }
    )*};
}

element!(u8, u32, u64, f32, f64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_in_the_same_order() {
        let bytes = Message::default()
            .number(7)
            .list(&[1.5f32, -0.0])
            .float(f64::MIN_POSITIVE)
            .list::<u32>(&[])
            .each([3u64, u64::MAX].iter(), |message, &number| {
                message.list(&[number])
            })
            .list(&[0.25f64, 4.0])
            .into_bytes();
        let mut reader = MessageReader::new(&bytes);
        assert_eq!(reader.number().unwrap(), 7);
        assert_eq!(reader.list::<f32>().unwrap(), [1.5, -0.0]);
        assert_eq!(reader.float().unwrap(), f64::MIN_POSITIVE);
        assert!(reader.list::<u32>().unwrap().is_empty());
        assert_eq!(
            reader.each(MessageReader::list::<u64>).unwrap(),
            [vec![3], vec![u64::MAX]]
        );
        let mut sums = [1.0, 1.0];
        reader.add_list(&mut sums).unwrap();
        assert_eq!(sums, [1.25, 5.0]);
        assert!(reader.number().is_err());
    }

    #[test]
    fn what_ends_too_early_or_is_of_another_length_is_an_error() {
        let bytes = Message::default().list(&[1.0f64, 2.0]).into_bytes();
        assert!(MessageReader::new(&bytes[..20]).list::<f64>().is_err());
        assert!(MessageReader::new(&bytes).add_list(&mut [0.0f64]).is_err());
        let endless = Message::default().number(usize::MAX).into_bytes();
        assert!(MessageReader::new(&endless).list::<f32>().is_err());
        assert!(MessageReader::new(&endless).each(MessageReader::number).is_err());
    }
}
