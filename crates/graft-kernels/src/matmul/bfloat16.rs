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
            use super::avx512_pairs::{self, Avx512Pairs};
            use super::{avx2_few_rows, avx512_bf16, blocked, skinny};
            if avx512_bf16::suits_few_rows(&a, &b) {
                return avx512_bf16::few_rows(a, b, out, par);
            }
            if avx2_few_rows::suits(&a, &b) {
                return avx2_few_rows::multiply(a, b, out, par);
            }
            if avx512_pairs::is_preferred() {
                return blocked::multiply::<Avx512Pairs, _>(a, b, out, par);
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

    #[cfg(target_arch = "x86_64")]
    fn multiply_sum(
        products: &[[Matrix<'_, bf16>; 2]],
        short: Option<[Matrix<'_, bf16>; 2]>,
        out: &mut [MaybeUninit<bf16>],
        parallel: bool,
    ) -> bool {
        use super::avx512_pairs::{self, Avx512Pairs};
        use super::blocked;

        if avx512_pairs::is_preferred() {
            blocked::multiply_sum::<Avx512Pairs, _>(products, short, out, parallel);
            return true;
        }
        blocked::multiply_sum_in_float32(products, short, out, parallel)
    }
}
