//! Products in `float32` of numbers of any floating-point dtype, in blocks: those of 16 bits are
//! converted while the operands are packed, and sums are rounded once.
//!
//! Both operands are packed into panels that hold, step after step along the sum, the numbers of
//! some rows of `a`, and of some columns of `b`. The sums of a tile, of a panel each, stay in
//! registers for a block of the sum. A task packs its own panels of `b`, which stay in the
//! second-level cache while those of `a`, which all tasks share, pass by. A kernel may ask for what is
//! packed or multiplied next while it computes tiles. Source of the order of loops: Goto and van de
//! Geijn, "Anatomy of High-Performance Matrix Multiplication", 2008.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::mem::MaybeUninit;
use std::ops::Range;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::LocalKey;

use super::avx2::{self, Avx2};
use super::avx512::Avx512;
use super::cuts::{cuts, grid, parts, share};
use super::matrix::Matrix;
use super::soon::{Soon, Source};
use super::{avx2_lanes, avx512_lanes};
use crate::floats::Float;
use crate::isa::Isa;
use crate::tasks;

/// Panels of `a` that are multiplied with a panel of `b` before the next one is packed, so that it
/// has come near by then.
const FIRST: usize = 6;

/// Steps up to which writing the sums is most of the work: nothing is asked for ahead, and tasks have
/// whole rows.
const SHORT: usize = 128;

/// The numbers of a line in a panel are a multiple of this.
pub(super) const STEPS: usize = 16;

/// Steps of a product of panels that nothing comes between.
pub(super) const FEW_STEPS: usize = 4;

/// The sizes of blocks of a product.
pub(super) struct Limits {
    /// Steps along the sum.
    pub(super) steps: usize,
    /// Numbers of `a` that are packed at a time.
    pub(super) packed: usize,
    /// Sums that wait at a time.
    pub(super) waiting: usize,
}

/// Memory for panels, kept from product to product, as fresh memory costs more than it holds.
pub(super) type Panels<Step> = LocalKey<RefCell<Vec<Step>>>;

/// What multiplies panels of numbers of type `T`, in some processor's instructions.
pub(super) trait Kernel<T: Float> {
    /// Lines of a panel of `a`, and of `b`.
    const LINES: [usize; 2];
    /// Panels of `b` in a task at most: those that the second-level cache keeps.
    const PANELS: usize;
    /// The sizes of blocks.
    const LIMITS: Limits;
    /// Whether tiles ask for what is packed or multiplied next.
    const ASKS_AHEAD: bool;
    /// Numbers of a line in a step of a panel.
    const NUMBERS: usize;
    /// A step of a panel of `a`.
    type A: Copy + Send + Sync + 'static;
    /// A step of a panel of `b`.
    type B: Copy + Send + Sync + 'static;
    /// Steps of zeros.
    const ZEROS: (Self::A, Self::B);

    /// Where panels of `a`, and of `b`, are packed.
    fn memory() -> (&'static Panels<Self::A>, &'static Panels<Self::B>);

    /// Whether the processor has the instructions.
    fn is_supported() -> bool;

    /// Packs the rows of `lines`. What a panel has for more lines is not looked at.
    ///
    /// The processor must have the instructions.
    ///
    /// # Panics
    /// If the panel has another number of steps, or not enough lines.
    fn pack_a(lines: Matrix<'_, T>, panel: &mut [Self::A]);

    /// Packs lines of `b`, as [`pack_a`](Self::pack_a) does.
    fn pack_b(lines: Matrix<'_, T>, panel: &mut [Self::B]);

    /// Adds the product of two panels to the sums at (i, j), or writes it to the output.
    ///
    /// # Safety
    /// The processor has the instructions, and nobody else uses these sums.
    unsafe fn tile(
        block: &Block<'_, T>,
        a: &[Self::A],
        b: &[Self::B],
        at: (usize, usize),
        soon: &mut Soon,
    );
}

/// The numbers of a line in a panel, for so many of the sum: those that are too many are zeros.
pub(super) fn padded(steps: usize) -> usize {
    steps.next_multiple_of(STEPS)
}

/// The steps of a panel for so many numbers of the sum.
fn length<K: Kernel<T>, T: Float>(steps: usize) -> usize {
    padded(steps) / K::NUMBERS
}

/// The first `size` steps of a buffer, which grows if it must.
fn fitted<Step: Copy>(buffer: &mut Vec<Step>, size: usize, zeros: Step) -> &mut [Step] {
    if buffer.len() < size {
        buffer.resize(size, zeros);
    }
    &mut buffer[..size]
}

/// The largest of evenly sized parts of `whole`, none above `limit`, as a multiple of `unit`.
pub(crate) fn part(whole: usize, limit: usize, unit: usize) -> usize {
    whole.div_ceil(whole.div_ceil(limit.max(unit))).next_multiple_of(unit)
}

/// Products of matrices that are added up, each of which has a piece of the sum.
pub(crate) trait Terms<T> {
    /// Rows and columns of all products.
    fn size(&self) -> (usize, usize);

    /// The number of pieces, at least 1.
    fn pieces(&self) -> usize;

    /// The steps of a piece at most.
    fn most_steps(&self) -> usize;

    /// Columns that [`piece`](Self::piece) has at a time at most, and of which a multiple begins a part.
    fn most_columns(&self) -> (usize, usize);

    /// The matrices of a piece, of the second one some columns.
    fn piece(&mut self, piece: usize, columns: Range<usize>) -> [Matrix<'_, T>; 2];
}

/// Terms that lie in memory.
struct InMemory<'a, T> {
    pieces: Vec<[Matrix<'a, T>; 2]>,
    steps: usize,
}

impl<'a, T: Float> InMemory<'a, T> {
    /// The products of pairs, in pieces of so many steps at most.
    fn new(products: &[[Matrix<'a, T>; 2]], limit: usize) -> Self {
        let [m, n] = [products[0][0].rows, products[0][1].columns];
        assert!(products.iter().all(|[a, b]| a.rows == m && a.columns == b.rows && b.columns == n));
        let longest = products.iter().map(|[a, _]| a.columns).max().unwrap_or(1);
        let steps = part(longest, limit, 1);
        let pieces = products.iter().flat_map(|&[a, b]| {
            (0..a.columns).step_by(steps).map(move |step| {
                let steps = steps.min(a.columns - step);
                [a.columns(step, steps), b.rows(step, steps)]
            })
        });
        Self { pieces: pieces.collect(), steps }
    }
}

impl<T: Float> Terms<T> for InMemory<'_, T> {
    fn size(&self) -> (usize, usize) {
        let [a, b] = self.pieces[0];
        (a.rows, b.columns)
    }

    fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn most_steps(&self) -> usize {
        self.steps
    }

    fn most_columns(&self) -> (usize, usize) {
        (usize::MAX, 1)
    }

    fn piece(&mut self, piece: usize, columns: Range<usize>) -> [Matrix<'_, T>; 2] {
        let [a, b] = self.pieces[piece];
        [a, b.columns(columns.start, columns.len())]
    }
}

/// Writes `a × b` to `out`, all of it.
///
/// # Panics
/// If the processor lacks the instructions, or the sizes do not fit.
pub(super) fn multiply<K: Kernel<T>, T: Float + Send + Sync>(
    a: Matrix<'_, T>,
    b: Matrix<'_, T>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    multiply_sum::<K, T>(&[[a, b]], None, out, parallel);
}

/// Writes the sum of the products `a × b`, and of a `short` one if there is one, to `out`, all of it. It
/// is that of one product whose sums are as long as those of all, and is rounded once; the short sum
/// takes a few more steps of the last block.
///
/// # Panics
/// As [`multiply`], or if there is no product.
pub(super) fn multiply_sum<K: Kernel<T>, T: Float + Send + Sync>(
    products: &[[Matrix<'_, T>; 2]],
    short: Option<[Matrix<'_, T>; 2]>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    let mut terms = InMemory::new(products, K::LIMITS.steps);
    multiply_terms::<K, T>(&K::LIMITS, &mut terms, short, out, parallel);
}

/// [`multiply_sum`] in the widest registers of `float32`, if there is AVX2 at all.
pub(super) fn multiply_sum_in_float32<T: avx2_lanes::Lanes + avx512_lanes::Lanes>(
    products: &[[Matrix<'_, T>; 2]],
    short: Option<[Matrix<'_, T>; 2]>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) -> bool {
    if Isa::Avx512.is_usable() {
        multiply_sum::<Avx512, T>(products, short, out, parallel);
    } else if avx2::is_usable() {
        multiply_sum::<Avx2, T>(products, short, out, parallel);
    } else {
        return false;
    }
    true
}

/// Writes the sum of all terms, and of a short product if there is one, to `out` in blocks.
///
/// # Panics
/// As [`multiply`].
pub(super) fn multiply_terms<K: Kernel<T>, T: Float + Send + Sync>(
    limits: &Limits,
    terms: &mut impl Terms<T>,
    short: Option<[Matrix<'_, T>; 2]>,
    out: &mut [MaybeUninit<T>],
    parallel: bool,
) {
    let (m, n) = terms.size();
    assert!(K::is_supported() && out.len() == m * n);
    if let Some([c, d]) = short {
        assert!(c.rows == m && c.columns == d.rows && d.columns == n);
    }
    let [a_lines, b_lines] = K::LINES;
    let pieces = terms.pieces();
    let rows = part(m, limits.packed / terms.most_steps(), a_lines);
    // Sums of 16-bit numbers over several blocks wait in `float32`.
    let waits = pieces > 1 && !T::IS_FLOAT32;
    let (most, unit) = terms.most_columns();
    let most = if waits { most.min(limits.waiting / rows) } else { most };
    let columns = part(n, most, b_lines.max(unit));
    // Nothing is read of it before the first block has written it.
    let mut waiting = Vec::<f32>::with_capacity(if waits { rows * columns } else { 0 });
    let corners = (0..m).step_by(rows).flat_map(|i| (0..n).step_by(columns).map(move |j| (i, j)));
    for (i, j) in corners {
        let (rows, columns) = (rows.min(m - i), columns.min(n - j));
        let out = Sums { data: out[i * n + j..].as_mut_ptr(), stride: n };
        let sums = if waits {
            Sums { data: waiting.as_mut_ptr(), stride: columns }
        } else {
            Sums { data: out.data.cast(), stride: n }
        };
        for piece in 0..pieces {
            let last = piece + 1 == pieces;
            let [a, b] = terms.piece(piece, j..j + columns);
            assert!(a.rows == m && a.columns == b.rows && b.columns == columns);
            let block = Block {
                a: a.rows(i, rows),
                b: b.transposed(),
                out,
                sums,
                short: short
                    .filter(|_| last)
                    .map(|[c, d]| [c.rows(i, rows), d.columns(j, columns).transposed()]),
                first: piece == 0,
                last,
            };
            block.multiply::<K>(parallel);
        }
    }
}

/// Where a matrix of sums is written, row by row.
#[derive(Clone, Copy)]
pub(super) struct Sums<T> {
    data: *mut T,
    pub(super) stride: usize,
}

impl<T> Sums<T> {
    /// The address of element (i, j), which need not exist.
    pub(super) fn at(self, i: usize, j: usize) -> *mut T {
        self.data.wrapping_add(i * self.stride + j)
    }
}

/// A block of a product: some rows and columns, and some steps of the sum.
pub(super) struct Block<'a, T> {
    /// `(M, K)`.
    pub(super) a: Matrix<'a, T>,
    /// Transposed: `(N, K)`.
    pub(super) b: Matrix<'a, T>,
    /// The operands of a second product that is added, as these two.
    short: Option<[Matrix<'a, T>; 2]>,
    pub(super) out: Sums<MaybeUninit<T>>,
    /// Where the sums are between two blocks: those of `float32` in `out` itself.
    pub(super) sums: Sums<f32>,
    pub(super) first: bool,
    pub(super) last: bool,
}

// SAFETY: the matrices may be shared, and tasks write tiles that do not overlap.
unsafe impl<T: Float + Send + Sync> Sync for Block<'_, T> {}

/// The panels of a task: rows are those of `a`, columns those of `b`.
struct Part {
    rows: Range<usize>,
    /// The row that comes first: threads begin with different ones, so that none waits for another.
    turn: usize,
    columns: Range<usize>,
    /// The first column of the task that may come after this one.
    next: Option<usize>,
}

impl<T: Float + Send + Sync> Block<'_, T> {
    fn multiply<K: Kernel<T>>(&self, parallel: bool) {
        let ([a_lines, b_lines], steps) = (K::LINES, length::<K, T>(self.steps()));
        let (count, panels) = (self.a.rows.div_ceil(a_lines), self.b.rows.div_ceil(b_lines));
        let mut memory = K::memory().0.take();
        let a: Vec<Shared<'_, K::A>> = fitted(&mut memory, count * steps, K::ZEROS.0)
            .chunks_mut(steps)
            .map(Shared::new)
            .collect();
        let threads = if parallel { tasks::threads() } else { 1 };
        let parts = if self.is_short() {
            // If there are few columns, tasks have fewer rows.
            let across = panels.div_ceil(K::PANELS * K::LIMITS.steps / SHORT);
            let down = (2 * threads).div_ceil(across).min(count);
            grid(down, count, &(0..across).map(|i| share(i, across, panels)).collect::<Vec<_>>())
        } else {
            parts(count, &cuts(panels, K::PANELS, threads), threads)
        };
        tasks::for_each(parts.len(), parallel, |task, (): &mut ()| {
            let (rows, columns) = parts[task].clone();
            let turn = task % threads * rows.len() / threads;
            let next = parts.get(task + threads).map(|(_, columns)| columns.start);
            self.multiply_part::<K>(&Part { rows, turn, columns, next }, &a);
        });
        drop(a);
        K::memory().0.set(memory);
    }

    /// Whether the sums have few steps.
    pub(super) fn is_short(&self) -> bool {
        self.steps() <= SHORT
    }

    /// The steps of the sums.
    pub(super) fn steps(&self) -> usize {
        match self.short {
            Some([c, _]) => padded(self.a.columns) + c.columns,
            None => self.a.columns,
        }
    }

    fn pack_a<K: Kernel<T>>(&self, i: usize, panel: &mut [K::A]) {
        let (panel, short) = panel.split_at_mut(length::<K, T>(self.a.columns));
        K::pack_a(lines(self.a, i, K::LINES[0]), panel);
        if let Some([c, _]) = self.short {
            K::pack_a(lines(c, i, K::LINES[0]), short);
        }
    }

    fn pack_b<K: Kernel<T>>(&self, j: usize, panel: &mut [K::B]) {
        let (panel, short) = panel.split_at_mut(length::<K, T>(self.a.columns));
        K::pack_b(lines(self.b, j, K::LINES[1]), panel);
        if let Some([_, d]) = self.short {
            K::pack_b(lines(d, j, K::LINES[1]), short);
        }
    }

    fn multiply_part<K: Kernel<T>>(&self, part: &Part, a: &[Shared<'_, K::A>]) {
        let Part { rows, turn, columns, next } = part;
        let [a_lines, b_lines] = K::LINES;
        let row = |t: usize| rows.start + (t + turn) % rows.len();
        let steps = length::<K, T>(self.steps());
        let mut memory = K::memory().1.take();
        let b = fitted(&mut memory, columns.len() * steps, K::ZEROS.1);
        let asks_ahead = K::ASKS_AHEAD && !self.is_short();
        let mut soon = Soon::default();
        let mut done = 0;
        while done < rows.len() {
            let is_first = done == 0;
            let group = done..if is_first { FIRST.min(rows.len()) } else { done + 1 };
            for (j, b) in columns.clone().zip(b.chunks_mut(steps)) {
                if is_first {
                    self.pack_b::<K>(j, b);
                    let next = if j + 1 < columns.end { Some(j + 1) } else { *next };
                    let next = next.filter(|_| asks_ahead);
                    let source = next.map(|j| Source::of(lines(self.b, j, b_lines)));
                    soon[0] = source.unwrap_or_default();
                }
                for t in group.clone() {
                    let i = row(t);
                    let panel = a[i].get(|panel| self.pack_a::<K>(i, panel));
                    if j == columns.start && t + 1 < rows.len() && asks_ahead {
                        let next = row(t + 1);
                        [soon[1], soon[2]] = a[next].sources(lines(self.a, next, a_lines));
                    }
                    // SAFETY: the processor has the instructions; this task alone writes the tile,
                    // whose rows and columns are those that were packed.
                    unsafe { K::tile(self, panel, b, (i * a_lines, j * b_lines), &mut soon) };
                }
            }
            done = group.end;
        }
        K::memory().1.set(memory);
    }
}

/// Panel `i` of panels of `count` rows.
fn lines<T: Float>(matrix: Matrix<'_, T>, i: usize, count: usize) -> Matrix<'_, T> {
    matrix.rows(i * count, count.min(matrix.rows - i * count))
}

/// A panel that is packed by whoever needs it first.
struct Shared<'p, Step> {
    empty: Mutex<Option<&'p mut [Step]>>,
    packed: OnceLock<&'p [Step]>,
    /// The address of the panel, and its bytes.
    place: (usize, usize),
}

impl<'p, Step> Shared<'p, Step> {
    /// A panel that nobody has packed.
    fn new(memory: &'p mut [Step]) -> Self {
        let place = (memory.as_ptr().addr(), size_of_val(memory));
        Self { empty: Mutex::new(Some(memory)), packed: OnceLock::new(), place }
    }

    /// The panel.
    fn get(&self, pack: impl FnOnce(&mut [Step])) -> &'p [Step] {
        self.packed.get_or_init(|| {
            let memory = self.empty.lock().unwrap_or_else(PoisonError::into_inner).take();
            let panel = memory.expect("a panel is packed once");
            pack(panel);
            panel
        })
    }

    /// The memory that [`Self::get`] uses: until it is packed, that of the rows too.
    fn sources<T: Float>(&self, lines: Matrix<'_, T>) -> [Source; 2] {
        let (place, bytes) = self.place;
        let from = if self.packed.get().is_some() { Source::default() } else { Source::of(lines) };
        [from, Source::bytes(place, bytes)]
    }
}

#[cfg(test)]
mod tests {
    use half::{bf16, f16};

    use super::super::avx512_pairs::Avx512Pairs;
    use super::*;

    fn numbers<T: Float>(seed: usize, count: usize) -> Vec<T> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        (0..count).map(|i| T::round(number(i))).collect()
    }

    /// The number in `f64`.
    fn wide<T: Float>(x: T) -> f64 {
        let mut wide = 0.0_f32;
        T::widen(&[x], std::slice::from_mut(&mut wide));
        f64::from(wide)
    }

    /// Compares with sums of `f64`; `unit` is the relative error of rounding to `T`.
    fn check<K: Kernel<T>, T: Float + Send + Sync>(unit: f64) {
        if !K::is_supported() {
            eprintln!("skipped: this processor lacks the instructions");
            return;
        }
        let [a_lines, b_lines] = K::LINES;
        for (m, k, n) in [(1, 1, 1), (14, 32, 32), (15, 33, 31), (130, 257, 100), (40, 2101, 70)] {
            compare::<K, T>(&K::LIMITS, unit, (m, k, n));
        }
        // Several blocks in all directions.
        let limits = Limits { steps: 40, packed: 40 * 2 * a_lines, waiting: 2 * a_lines * b_lines };
        for (m, k, n) in [(70, 100, 100), (29, 81, 33), (28, 40, 32), (300, 41, 5)] {
            compare::<K, T>(&limits, unit, (m, k, n));
        }
        // All numbers of rows that the last tile may have, and of steps that the last block packs.
        for m in 1..=2 * a_lines {
            compare::<K, T>(&K::LIMITS, unit, (m, 37, 33));
        }
        for k in 1..=70 {
            compare::<K, T>(&K::LIMITS, unit, (15, k, 18));
        }
    }

    /// Compares products of matrices that lie in memory in all kinds of ways.
    fn compare<K: Kernel<T>, T: Float + Send + Sync>(
        limits: &Limits,
        unit: f64,
        (m, k, n): (usize, usize, usize),
    ) {
        let (a, b) = (numbers::<T>(1, 2 * m * k), numbers::<T>(2, 3 * k * n));
        let (rows, columns) = (Matrix::from_rows(&a, m, k), Matrix::from_rows(&b, n, k));
        // SAFETY: the numbers are twice and thrice as many as the elements.
        let (second, third) = unsafe {
            (
                Matrix::new(a.as_ptr(), (m, k), (2 * k as isize, 2)),
                Matrix::new(b.as_ptr(), (k, n), (3, 3 * k as isize)),
            )
        };
        let pairs = [
            (rows, columns.transposed()),
            (rows, Matrix::from_rows(&b, k, n)),
            (Matrix::from_rows(&a, k, m).transposed(), Matrix::from_rows(&b, k, n)),
            (second, third),
        ];
        for (a, b) in pairs {
            let part = |at: usize, count: usize| [a.columns(at, count), b.rows(at, count)];
            let (third, last) = (k / 3, 9.min(k - 1));
            let ways = [
                (vec![part(0, k)], None),
                // The last steps of the sum are those of a second product, which is short.
                (vec![part(0, k - last)], (last > 0).then(|| part(k - last, last))),
                // There are two products, the second of which has longer sums.
                (vec![part(0, third), part(third, k - third)], None),
            ];
            let sum = |at: usize| {
                let terms = (0..k).map(|t| wide(a.get(at / n, t)) * wide(b.get(t, at % n)));
                terms.fold((0.0, 0.0), |(sum, size), term| (sum + term, size + f64::abs(term)))
            };
            let sums: Vec<(f64, f64)> = (0..m * n).map(sum).collect();
            for ((products, short), parallel) in
                ways.iter().flat_map(|way| [false, true].map(|parallel| (way, parallel)))
            {
                let mut found = vec![MaybeUninit::new(T::round(f32::NAN)); m * n];
                let mut terms = InMemory::new(products, limits.steps);
                multiply_terms::<K, T>(limits, &mut terms, *short, &mut found, parallel);
                for (found, &(sum, size)) in found.iter().zip(&sums) {
                    // SAFETY: all elements were initialised when the vector was made.
                    let found = wide(unsafe { found.assume_init() });
                    let bound = unit * f64::abs(sum) + k as f64 * 6e-8 * size;
                    assert!((found - sum).abs() <= bound, "{m} {k} {n}: {found} for {sum}");
                }
            }
        }
    }

    #[test]
    fn products_are_within_the_rounding_of_float32() {
        check::<Avx2, f32>(0.0);
        check::<Avx512, f32>(0.0);
    }

    #[test]
    fn products_of_16_bits_are_rounded_once() {
        check::<Avx2, bf16>(1.0 / 256.0);
        check::<Avx512, bf16>(1.0 / 256.0);
        check::<Avx512Pairs, bf16>(1.0 / 256.0);
        check::<Avx2, f16>(1.0 / 2048.0);
        check::<Avx512, f16>(1.0 / 2048.0);
    }
}
