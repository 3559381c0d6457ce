//! f32 to f16 and back without a branch, so that compilers do several at once: without such instructions, as in
//! WebAssembly, number by number is what reading and writing an adapter of halves would mostly be.

/// 2^112: what lies between the exponents' biases.
const BIASES: f32 = f32::from_bits((127 + 112) << 23);

/// The number that an f16's bits are.
#[inline(always)]
pub(super) fn widened(bits: u16) -> f32 {
    let sign = u32::from(bits & 0x8000) << 16;
    let magnitude = u32::from(bits & 0x7fff);
    let finite = (f32::from_bits(magnitude << 13) * BIASES).to_bits();
    // Infinity, or a NaN with what it carries.
    let other = 0x7f80_0000 | magnitude << 13;
    f32::from_bits(sign | if magnitude < 0x7c00 { finite } else { other })
}

/// The bits of the nearest f16, of two the even one; of a number beyond f16 (65520 and more) they mean nothing.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "16 bits are left")]
pub(super) fn narrowed(number: f32) -> u16 {
    let bits = number.to_bits();
    let (sign, magnitude) = (bits >> 16 & 0x8000, bits & 0x7fff_ffff);
    let normal = magnitude
        .wrapping_add(0x0fff + (magnitude >> 13 & 1))
        .wrapping_sub(112 << 23)
        >> 13;
    // At a half the last bit of an f32 is the last one of the smallest f16: the addition rounds.
    let tiny = (f32::from_bits(magnitude) + 0.5)
        .to_bits()
        .wrapping_sub(0.5f32.to_bits());
    let half = if magnitude < 113 << 23 { tiny } else { normal };
    (sign | half) as u16
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::{narrowed, widened};

    #[test]
    fn every_half_is_what_the_library_says() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (widened(bits), f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{bits:04x}"
            );
            assert_eq!(bits & 0x7fff >= 0x7c00, !ours.is_finite(), "{bits:04x}");
        }
    }

    #[test]
    fn every_rounding_is_the_librarys() {
        for bits in 0..0x7c00u16 {
            let (low, high) = (f16::from_bits(bits).to_f32(), f16::from_bits(bits + 1).to_f32());
            let high = if high.is_finite() { high } else { 65519.996 };
            let middle = low + (high - low) / 2.0;
            let next = |x: f32, step: i32| f32::from_bits(x.to_bits().wrapping_add_signed(step));
            for x in [
                low,
                high,
                middle,
                next(middle, 1),
                next(middle, -1),
                next(low, 1),
                low + (high - low) / 3.0,
            ] {
                for x in [x, -x] {
                    assert_eq!(narrowed(x), f16::from_f32(x).to_bits(), "{x}");
                }
            }
        }
    }
}
