//! The random order of batches, bit for bit that of numpy's global generator.

use rand_mt::Mt;
use serde::{Deserialize, Serialize};

/// numpy's legacy generator, `numpy.random.seed` and `numpy.random.permutation`.
///
/// mlx-lm draws the order of training batches and of every validation from the one global
/// generator of numpy, so one `BatchRng` is shared by all [`Batches`](super::Batches) of a
/// training. It is saved as its seed and the count of numbers drawn.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(from = "State", into = "State")]
pub struct BatchRng {
    seed: u32,
    draws: u64,
    generator: Mt,
}

#[derive(Serialize, Deserialize)]
struct State {
    seed: u32,
    draws: u64,
}

impl From<State> for BatchRng {
    fn from(state: State) -> Self {
        let mut rng = Self::new(state.seed);
        // A draw costs nanoseconds, and a training makes one for each batch.
        for _ in 0..state.draws {
            rng.next();
        }
        rng
    }
}

impl From<BatchRng> for State {
    fn from(rng: BatchRng) -> Self {
        Self { seed: rng.seed, draws: rng.draws }
    }
}

impl BatchRng {
    /// The generator after `numpy.random.seed(seed)`.
    pub fn new(seed: u32) -> Self {
        Self { seed, draws: 0, generator: Mt::new(seed) }
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
            let value = self.next() & mask;
            if value <= max {
                return value;
            }
        }
    }

    fn next(&mut self) -> u32 {
        self.draws += 1;
        self.generator.next_u32()
    }
}

#[cfg(test)]
mod tests {
    use super::BatchRng;

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
    fn a_saved_generator_goes_on_where_it_was() {
        let mut rng = BatchRng::new(7);
        rng.permutation(100);
        let saved = serde_json::to_string(&rng).unwrap();
        let mut restored: BatchRng = serde_json::from_str(&saved).unwrap();
        assert_eq!(rng.permutation(50), restored.permutation(50));
    }
}
