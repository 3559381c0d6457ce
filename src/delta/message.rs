//! A change as it passes between workers.

use crate::{
    compute::{Message, MessageReader},
    delta::{Delta, Dense, LowRank},
    error::Result,
};

impl Delta {
    /// Adds the change to a message.
    pub fn say(&self, message: Message) -> Message {
        let (d_out, d_in) = self.shape();
        let message = message.number(d_out).number(d_in);
        match self {
            Self::LowRank(factors) => message.number(factors.rank).list(&factors.a).list(&factors.b),
            Self::Dense(dense) => message.number(0).list(&dense.data),
        }
    }

    /// Reads what [`Delta::say`] added.
    ///
    /// # Errors
    /// As [`MessageReader::number`].
    pub fn read(message: &mut MessageReader<'_>) -> Result<Self> {
        let (d_out, d_in) = (message.number()?, message.number()?);
        Ok(match message.number()? {
            0 => Self::Dense(Dense {
                data: message.list()?,
                d_out,
                d_in,
            }),
            rank => Self::LowRank(LowRank {
                a: message.list()?,
                b: message.list()?,
                rank,
                d_out,
                d_in,
            }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_the_same_behind_a_message() {
        let factors = LowRank {
            a: vec![1.0, 2.0, 3.0],
            b: vec![-1.0, 0.5],
            rank: 1,
            d_out: 2,
            d_in: 3,
        };
        let dense = Dense {
            data: factors.dense(),
            d_out: 2,
            d_in: 3,
        };
        for delta in [Delta::LowRank(factors), Delta::Dense(dense)] {
            let bytes = delta.say(Message::default()).into_bytes();
            assert_eq!(Delta::read(&mut MessageReader::new(&bytes)).unwrap(), delta);
        }
    }
}
