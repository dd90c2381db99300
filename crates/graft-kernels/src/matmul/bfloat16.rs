//! Products of `bfloat16`: by AVX-512's dot products of pairs where they are faster than products in
//! `float32`.

use std::mem::MaybeUninit;

use half::bf16;

use super::converted;
use super::matrix::Matrix;
#[cfg(target_arch = "x86_64")]
use super::problem::Each;
use super::problem::Product;

impl Product for bf16 {
    fn multiply(
        a: Matrix<'_, bf16>,
        b: Matrix<'_, bf16>,
        out: &mut [MaybeUninit<bf16>],
        par: bool,
    ) {
        #[cfg(target_arch = "x86_64")]
        {
            use super::avx2::{self, Avx2};
            use super::avx512::{self, Avx512};
            use super::{avx2_few_rows, avx512_bf16, blocked, skinny};
            if avx512_bf16::suits_few_rows(&a, &b) {
                return avx512_bf16::few_rows(a, b, out, par);
            }
            if avx2_few_rows::suits(&a, &b) {
                return avx2_few_rows::multiply(a, b, out, par);
            }
            if avx512_bf16::suits_many_rows() {
                return avx512_bf16::multiply(a, b, out, par);
            }
            if skinny::multiply_across(a, b, out, par) {
                return;
            }
            if avx512::suits(&a, &b) {
                return blocked::multiply::<Avx512, _>(a, b, out, par);
            }
            if avx2::suits(&a, &b) {
                return blocked::multiply::<Avx2, _>(a, b, out, par);
            }
        }
        converted::multiply(a, b, out, par);
    }

    #[cfg(target_arch = "x86_64")]
    fn multiply_few_rows(
        a: Matrix<'_, bf16>,
        products: &mut [Each<'_, '_, bf16>],
        parallel: bool,
    ) -> bool {
        use super::{avx2_few_rows, avx512_bf16};

        if avx512_bf16::suits_each(&a, products) {
            avx512_bf16::few_rows_of_each(a, products, parallel);
            return true;
        }
        avx2_few_rows::multiply_each(a, products, parallel)
    }
}

#[cfg(all(test, target_arch = "x86_64"))]
#[allow(unsafe_code)]
mod tests {
    use super::super::avx512_bf16;
    use super::*;
    use crate::isa::Isa;

    fn numbers(seed: usize, count: usize) -> Vec<bf16> {
        let number = |i: usize| ((i * 7919 + seed * 104_729) % 1009) as f32 / 504.5 - 1.0;
        (0..count).map(|i| bf16::from_f32(number(i))).collect()
    }

    /// The kernel of pairs runs where the processor has it, also where it is not the fastest.
    #[test]
    fn products_of_pairs_are_those_in_float32() {
        if !Isa::Avx512Bf16.is_supported() {
            eprintln!("skipped: this processor has no AVX-512 BF16");
            return;
        }
        for (m, k, n) in [(1, 1, 1), (14, 32, 32), (15, 33, 31), (130, 257, 100), (40, 4101, 1100)]
        {
            let (a, b) = (numbers(1, m * k), numbers(2, k * n));
            let a = Matrix::from_rows(&a, m, k);
            for b in [Matrix::from_rows(&b, k, n), Matrix::from_rows(&b, n, k).transposed()] {
                for parallel in [false, true] {
                    let mut found = vec![MaybeUninit::new(bf16::ZERO); m * n];
                    let mut wanted = found.clone();
                    avx512_bf16::multiply(a, b, &mut found, parallel);
                    converted::multiply(a, b, &mut wanted, parallel);
                    let wide = |x: &[MaybeUninit<bf16>]| -> Vec<f32> {
                        // SAFETY: all elements were initialised when the vector was made.
                        x.iter().map(|x| unsafe { x.assume_init() }.to_f32()).collect()
                    };
                    for (x, y) in wide(&found).iter().zip(wide(&wanted)) {
                        let bound = y.abs() / 128.0 + 1e-5 * k as f32;
                        assert!((x - y).abs() <= bound, "{m} {k} {n}: {x} instead of {y}");
                    }
                }
            }
        }
    }
}
