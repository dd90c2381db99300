//! The products that `gather_mm` and its gradient are made of, and how they are shared among threads.

use std::sync::{Mutex, PoisonError};

use mlx_graft::primitive::{KernelError, OutputBuffer, Strided};

use super::super::matrix::Matrix;
use super::super::problem::{Product, Unwritten, multiply_into, write_parts};
use crate::gather::Groups;
use crate::tasks::{self, Cut};

/// Columns of a task are a multiple of a cache line of every dtype.
const COLUMNS: usize = 64;

/// Rows of a gradient that are computed at a time at most.
const MOST_ROWS: usize = 256;

/// Products with one matrix of `b`: some of their columns.
struct Task<'a, T> {
    matrix: usize,
    products: &'a [usize],
    first: usize,
    lines: Vec<Unwritten<'a, T>>,
}

/// Buffers of a thread.
struct Buffers<T> {
    rows: [Vec<T>; 2],
    product: Vec<T>,
}

impl<T> Default for Buffers<T> {
    fn default() -> Self {
        Self { rows: [Vec::new(), Vec::new()], product: Vec::new() }
    }
}

/// Runs tasks on all threads, each task once.
fn run<T: Product, K: Send>(
    tasks: Vec<K>,
    cut: &Cut,
    run: impl Fn(&mut K, &mut Buffers<T>) + Sync,
) {
    let tasks: Vec<Mutex<K>> = tasks.into_iter().map(Mutex::new).collect();
    tasks::for_each(tasks.len(), cut.is_parallel(), |i, buffers| {
        run(&mut tasks[i].lock().unwrap_or_else(PoisonError::into_inner), buffers);
    });
}

/// The rows of some matrices of a stack, one after the other.
fn stacked<'s, T: Product>(
    stack: &'s Strided<'_, T>,
    mut numbers: impl ExactSizeIterator<Item = usize>,
    buffer: &'s mut Vec<T>,
) -> Matrix<'s, T> {
    if numbers.len() == 1 {
        return Matrix::at(stack, numbers.next().expect("there is one"));
    }
    buffer.clear();
    let (mut rows, mut columns) = (0, 0);
    for number in numbers {
        let matrix = Matrix::at(stack, number);
        matrix.append_to(buffer);
        rows += matrix.rows;
        columns = matrix.columns;
    }
    Matrix::from_rows(buffer, rows, columns)
}

/// Multiplies matrices `lhs` of `a` and `rhs` of `b`, pair by pair.
pub(super) fn multiply<T: Product>(
    [a, b]: [Strided<'_, T>; 2],
    [lhs, rhs]: [&[usize]; 2],
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let ([.., m, k], [b_stack @ .., _, n]) = (a.shape(), b.shape()) else {
        return Err(KernelError::new("operands are matrices"));
    };
    let (m, k, n) = (*m as usize, *k as usize, *n as usize);
    if output.size() == 0 || k == 0 {
        return output.as_mut_slice::<T>().map(drop);
    }
    let groups = Groups::new(rhs, b_stack.iter().product::<i32>() as usize);
    let work = |products: &[usize]| tasks::work_of_rows(m * products.len(), k * n);
    let cut = Cut::new(groups.iter().map(|(_, products)| work(products)).sum());
    write_parts(output, |mut out| {
        let mut lines: Vec<_> = (0..out.len() / n).map(|_| Some(out.take(n))).collect();
        let mut tasks = Vec::new();
        for (matrix, products) in groups.iter() {
            let rows = products.iter().flat_map(|&product| product * m..(product + 1) * m);
            let mut lines: Vec<Unwritten<'_, T>> =
                rows.map(|row| lines[row].take().expect("a product is in one group")).collect();
            let width = cut.width(work(products), n, COLUMNS);
            for first in (0..n).step_by(width) {
                let width = width.min(n - first);
                let lines = lines.iter_mut().map(|line| line.take(width)).collect();
                tasks.push(Task { matrix, products, first, lines });
            }
        }
        run(tasks, &cut, |task: &mut Task<'_, T>, Buffers { rows: [rows, _], product }| {
            let width = task.lines[0].len();
            let rows = stacked(&a, task.products.iter().map(|&product| lhs[product]), rows);
            multiply_into(product, rows, Matrix::at(&b, task.matrix).columns(task.first, width));
            for (line, product) in task.lines.iter_mut().zip(product.chunks_exact(width)) {
                line.write(product);
            }
        });
    })
}

/// Writes, for each matrix that `rhs` picks, the sum of the products `aᵀ g`.
pub(super) fn sum_products<T: Product>(
    [a, g]: [Strided<'_, T>; 2],
    [lhs, rhs]: [&[usize]; 2],
    output: &mut OutputBuffer<'_>,
) -> Result<(), KernelError> {
    let ([.., m, k], [.., n]) = (a.shape(), g.shape()) else {
        return Err(KernelError::new("operands are matrices"));
    };
    let (m, k, n) = (*m as usize, *k as usize, *n as usize);
    if output.size() == 0 || m == 0 {
        return output.as_mut_slice::<T>().map(drop);
    }
    let count = output.size() / (k * n);
    let groups = Groups::new(rhs, count);
    let work = |products: &[usize]| tasks::work_of_rows(m * products.len(), k * n);
    let cut = Cut::new(groups.iter().map(|(_, products)| work(products)).sum());
    write_parts(output, |mut out| {
        let mut sums: Vec<_> = (0..count).map(|_| Some(out.take(k * n))).collect();
        let mut tasks = Vec::new();
        for (matrix, products) in groups.iter() {
            let rows = cut.width(work(products), k, COLUMNS).min(MOST_ROWS);
            let mut sums = sums[matrix].take().expect("a matrix has one group");
            for first in (0..k).step_by(rows) {
                tasks.push((products, first, sums.take(rows.min(k - first) * n)));
            }
        }
        // Of matrices that nothing is multiplied with.
        sums.into_iter().flatten().for_each(Unwritten::write_zeros);
        run(tasks, &cut, |(products, first, sums), Buffers { rows: [left, right], product }| {
            let left = stacked(&a, products.iter().map(|&product| lhs[product]), left);
            let right = stacked(&g, products.iter().copied(), right);
            multiply_into(product, left.transposed().rows(*first, sums.len() / n), right);
            sums.write(product);
        });
    })
}
