//! The random order of batches, bit for bit that of numpy's global generator.

use rand_mt::Mt;
use serde::{Deserialize, Serialize};

/// numpy's legacy generator, `numpy.random.seed` and `numpy.random.permutation`.
///
/// mlx-lm draws the order of training batches and of every validation from the one global
/// generator of numpy, so one `BatchRng` is shared by all [`Batches`](super::Batches) of a
/// training.
#[derive(Debug, Clone)]
pub struct BatchRng {
    generator: Mt,
    position: RngPosition,
}

/// Where a [`BatchRng`] stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RngPosition {
    /// What it was started with.
    pub seed: u32,
    /// How many numbers of 32 bits have been drawn.
    pub drawn: u64,
}

impl BatchRng {
    /// The generator after `numpy.random.seed(seed)`.
    pub fn new(seed: u32) -> Self {
        Self::at(RngPosition { seed, drawn: 0 })
    }

    /// The generator at a position. The numbers before it are drawn again, which takes a second for
    /// some hundred million.
    pub fn at(position: RngPosition) -> Self {
        let mut generator = Mt::new(position.seed);
        for _ in 0..position.drawn {
            generator.next_u32();
        }
        Self { generator, position }
    }

    /// Where the generator stands.
    pub fn position(&self) -> RngPosition {
        self.position
    }

    /// `numpy.random.permutation(n)`.
    ///
    /// # Panics
    /// If `n` is above 2³², where numpy draws numbers of 64 bits.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..n).collect();
        for last in (1..n).rev() {
            let bound = u32::try_from(last).expect("fewer than 2^32 batches");
            let other = self.interval(bound) as usize;
            order.swap(last, other);
        }
        order
    }

    /// A number from 0 to `max`, by masking and rejection: `random_interval` of numpy's
    /// `distributions.c`.
    fn interval(&mut self, max: u32) -> u32 {
        let mask = u32::MAX.checked_shr(max.leading_zeros()).unwrap_or(0);
        loop {
            self.position.drawn += 1;
            let value = self.generator.next_u32() & mask;
            if value <= max {
                return value;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BatchRng, RngPosition};

    // Expected: numpy 2.4.6, `numpy.random.seed(s)`, then `numpy.random.permutation(n)`.
    #[test]
    fn permutations_are_numpys() {
        let mut rng = BatchRng::new(0);
        assert_eq!(rng.permutation(10), [2, 8, 4, 9, 1, 6, 7, 3, 0, 5]);
        assert_eq!(rng.permutation(5), [1, 0, 2, 3, 4]);
        assert_eq!(rng.permutation(1), [0]);
        assert!(rng.permutation(0).is_empty());
        assert_eq!(rng.permutation(6), [3, 5, 1, 2, 4, 0]);
        assert_eq!(BatchRng::new(u32::MAX).permutation(8), [1, 7, 6, 0, 5, 4, 2, 3]);
        let thousand = BatchRng::new(42).permutation(1000);
        assert_eq!(thousand[..8], [521, 737, 740, 660, 411, 678, 626, 513]);
    }

    #[test]
    fn a_generator_goes_on_from_its_position() {
        let mut rng = BatchRng::new(7);
        assert_eq!(rng.position(), RngPosition { seed: 7, drawn: 0 });
        // More numbers than the generator makes at a time, and some of them rejected.
        rng.permutation(1000);
        assert!(rng.position().drawn > 1000);
        let mut other = BatchRng::at(rng.position());
        assert_eq!(other.permutation(50), rng.permutation(50));
        assert_eq!(other.position(), rng.position());
    }
}
