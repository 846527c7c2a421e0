//! Random values: ids, masks, keys, and the moments of pings and reconnects.

use rand::distr::{Distribution, StandardUniform};

/// Returns a random value.
#[cfg(not(feature = "unstable"))]
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// Returns a random value, or the next one of this thread's [`seed`].
#[cfg(feature = "unstable")]
pub(crate) fn random<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    use rand::RngExt;

    seed::GENERATOR.with_borrow_mut(|generator| generator.as_mut().map_or_else(rand::random, |seeded| seeded.random()))
}

/// Returns whether the values of this thread follow from a [`seed`].
pub(crate) fn is_seeded() -> bool {
    #[cfg(feature = "unstable")]
    return seed::GENERATOR.with_borrow(Option::is_some);
    #[cfg(not(feature = "unstable"))]
    false
}

#[cfg(feature = "unstable")]
pub(crate) mod seed {
    //! Random values that a test can repeat.

    use std::cell::RefCell;

    use rand::{SeedableRng, rngs::StdRng};

    thread_local! {
        pub(super) static GENERATOR: RefCell<Option<StdRng>> = const { RefCell::new(None) };
    }

    /// Makes the random values of this thread a function of `seed`; `None` makes them random again.
    ///
    /// A simulation with a paused clock on one thread then repeats itself exactly.
    pub fn seed(seed: impl Into<Option<u64>>) {
        GENERATOR.set(seed.into().map(StdRng::seed_from_u64));
    }
}
