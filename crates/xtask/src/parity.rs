//! The cases of the operations, for the parity tests and the self-test of the package.

use std::fmt::Write;

use crate::FIRST_LINE;
use crate::table::Table;

/// The text of the list. What is done with it is in `python/mlx_graft/core/_parity.py`.
pub fn file(table: &Table) -> String {
    let mut text = format!(
        "# {FIRST_LINE} crates/mlx-graft/ops.toml\n# fmt: off\n# mypy: ignore-errors\n\
         # ruff: noqa: ARG005, E501\n\"\"\"The operations with arguments to try them on.\"\"\"\n\n\
         import mlx.core as mx\n\nfrom mlx_graft.core._parity import Op\n\n\
         try:\n    import numpy as np\nexcept ModuleNotFoundError:\n    np = None\n\nOPS = [\n"
    );
    for group in &table.groups {
        let prefix =
            if group.module == "ops" { String::new() } else { format!("{}.", group.module) };
        for op in group.ops.iter().filter(|op| op.signature.is_some()) {
            let _ = writeln!(text, "    Op(\n        \"{prefix}{}\",", op.python);
            let group = if group.module == "ops" { &group.file } else { group.module };
            let _ = writeln!(text, "        group=\"{group}\",");
            let (numpy, cases): (Vec<&String>, _) =
                op.cases.iter().partition(|case| case.contains("np."));
            for (name, list) in
                [("cases", cases), ("bad", op.bad.iter().collect()), ("numpy", numpy)]
            {
                if list.is_empty() {
                    continue;
                }
                let _ = writeln!(text, "        {name}=[");
                for case in list {
                    let _ = writeln!(text, "            lambda f, x: f({case}),");
                }
                text += "        ],\n";
            }
            let grad = if op.grad { "True" } else { "False" };
            let _ = writeln!(text, "        grad={grad},");
            if op.gpu {
                text += "        gpu=True,\n";
            }
            if !op.aliases.is_empty() {
                let names: Vec<String> =
                    op.aliases.iter().map(|alias| format!("\"{prefix}{alias}\",")).collect();
                let _ = writeln!(text, "        aliases=({}),", names.join(" "));
            }
            if !op.hand {
                let names: Vec<String> =
                    op.functions.iter().map(|(_, f)| format!("{:?},", f.name)).collect();
                let _ = writeln!(text, "        c=({}),", names.join(" "));
            }
            text += "    ),\n";
        }
    }
    text += "]\n";
    text
}
