//! The keyword `multipleOf`, for numbers that peers compute in doubles.

/// Returns `true` if `number` is a multiple of `divisor`, except for the rounding errors of doubles.
///
/// A peer that adds 0.1 and 0.2 sends 0.30000000000000004, which is a multiple of 0.1. Errors of some units in the last
/// place are accepted, and those that remain when almost equal numbers are subtracted.
pub(super) fn is_multiple(number: f64, divisor: f64) -> bool {
    let nearest = (number / divisor).round() * divisor;
    (number - nearest).abs() <= f64::max(number.abs() * 1e-15, divisor * 1e-10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn computed_multiples_are_accepted() {
        let sum = (0..1000).map(|_| 0.1).sum::<f64>();
        for number in
            [0.0, -0.7, 21.4, 0.1 + 0.2, 7.0 * 3.1, 32.3 - 32.0, 0.3 - 3.0 * 0.1, sum, 22_000.1 * 3.0, 1e8 + 0.1, 1e300]
        {
            assert!(is_multiple(number, 0.1), "{number}");
        }
        for number in [0.15, 0.31, 0.01, -0.05, 0.100_000_000_1, 21.45, 22_000.000_001, 1e8 + 0.05, f64::INFINITY] {
            assert!(!is_multiple(number, 0.1), "{number}");
        }
        assert!(is_multiple(10.0, 2.5) && is_multiple(0.1 * 3.0, 0.05) && is_multiple(1e-7 * 3.0, 1e-7));
        assert!(!is_multiple(10.0, 3.0) && !is_multiple(1.5e-7, 1e-7));
    }
}
