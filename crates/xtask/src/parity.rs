//! The parity test of the operations.

use std::fmt::Write;

use crate::FIRST_LINE;
use crate::table::Table;

/// The text of the test. What it does is in `tests/parity/cases.py`.
pub fn file(table: &Table) -> String {
    let mut text = format!(
        "# {FIRST_LINE} crates/mlx-graft/ops.toml\n# fmt: off\n# ruff: noqa: ARG005, E501\n\
         import mlx.core as mx\nimport numpy as np\nimport pytest\n\
         from parity.cases import Op, check_errors, check_gradients, check_values\n\nOPS = [\n"
    );
    for group in &table.groups {
        let prefix =
            if group.module == "ops" { String::new() } else { format!("{}.", group.module) };
        for op in group.ops.iter().filter(|op| op.signature.is_some()) {
            let _ = writeln!(text, "    Op(\n        \"{prefix}{}\",", op.python);
            for (name, list) in [("cases", &op.cases), ("bad", &op.bad)] {
                let _ = writeln!(text, "        {name}=[");
                for case in list {
                    let _ = writeln!(text, "            lambda f, x: f({case}),");
                }
                text += "        ],\n";
            }
            let grad = if op.grad { "True" } else { "False" };
            let _ = writeln!(text, "        grad={grad},\n    ),");
        }
    }
    text += "]\n\n\
             @pytest.mark.parametrize(\"op\", OPS, ids=lambda op: op.name)\n\
             def test_values(op: Op) -> None:\n    check_values(op)\n\n\n\
             @pytest.mark.parametrize(\"op\", [op for op in OPS if op.grad], ids=lambda op: op.name)\n\
             def test_gradients(op: Op) -> None:\n    check_gradients(op)\n\n\n\
             @pytest.mark.parametrize(\"op\", OPS, ids=lambda op: op.name)\n\
             def test_errors(op: Op) -> None:\n    check_errors(op)\n";
    text
}
