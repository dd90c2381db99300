//! The kernels over sizes, against MLX's own operations: one program, so that it is linked once.

mod attention;
mod gather;
mod limits;
mod matmul;
#[path = "../../tests/common/numbers.rs"]
mod numbers;
mod quantized_matmul;
mod rows;

use criterion::Criterion;

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    limits::limits(&mut criterion);
    matmul::matmul(&mut criterion);
    quantized_matmul::quantized_matmul(&mut criterion);
    attention::attention(&mut criterion).expect("shapes that fit");
    rows::rows(&mut criterion).expect("shapes that fit");
    gather::gather(&mut criterion).expect("shapes that fit");
    criterion.final_summary();
}
