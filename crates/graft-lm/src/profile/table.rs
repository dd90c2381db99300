//! A report as text.

use std::io::{self, Write};

use super::{Report, Row};

/// The longest name of an operation in the table; the JSON has all of it.
const NAME: usize = 40;

impl Report {
    /// Writes the report as tables, of at most `limit` operations.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_table(&self, out: &mut dyn Write, limit: usize) -> io::Result<()> {
        self.head(out)?;
        let shown = &self.operations[..self.operations.len().min(limit)];
        let names: Vec<String> = shown.iter().map(name).collect();
        let width = names.iter().map(|name| name.chars().count()).max().unwrap_or(0).max(24);
        writeln!(
            out,
            "\n{:width$}  {:>6}  {:>10}  {:>7}  {:>9}  {:>7}  {:>9}",
            "operation", "calls", "ms", "share", "GFLOP/s", "GB/s", "of limit"
        )?;
        let step = &self.step;
        for (row, name) in shown.iter().zip(&names) {
            let rate =
                |rate: Option<f64>| rate.map_or(String::new(), |r| format!("{:.1}", r / 1e9));
            let share = row.of_the_limit.map_or(String::new(), |s| format!("{:.0} %", 100.0 * s));
            writeln!(
                out,
                "{name:width$}  {:6}  {:10.2}  {:5.1} %  {:>9}  {:>7}  {share:>9}",
                row.calls,
                1e3 * row.seconds,
                100.0 * row.share,
                rate(row.flops_per_second),
                rate(row.bytes_per_second),
            )?;
        }
        let mut line = |name: &str, calls: Option<usize>, seconds: f64| {
            let calls = calls.map_or(String::new(), |calls| calls.to_string());
            let share = 100.0 * seconds / step.profiled;
            writeln!(out, "{name:width$}  {calls:>6}  {:10.2}  {share:5.1} %", 1e3 * seconds)
        };
        let rest = &self.operations[shown.len()..];
        if !rest.is_empty() {
            let calls = rest.iter().map(|row| row.calls).sum();
            line("(others)", Some(calls), rest.iter().map(|row| row.seconds).sum())?;
        }
        line("(between operations)", None, step.between)?;
        line("(building the graph)", None, step.building)?;
        let calls = self.operations.iter().map(|row| row.calls).sum();
        line("sum", Some(calls), step.profiled)?;
        let fold = |f: fn(f64, f64) -> f64| step.turns.iter().copied().fold(step.seconds, f);
        writeln!(
            out,
            "\nA step takes {:.2} ms without the profile (median of {}, {:.2} to {:.2}), and took \
             {:.2} ms with it.",
            1e3 * step.seconds,
            step.turns.len(),
            1e3 * fold(f64::min),
            1e3 * fold(f64::max),
            1e3 * step.profiled,
        )?;
        if self.timing == "apart" {
            writeln!(
                out,
                "Each operation was evaluated alone: its time includes that of starting it and of \
                 waiting for it."
            )?;
        }
        self.memory(out)
    }

    fn head(&self, out: &mut dyn Write) -> io::Result<()> {
        let kind = if self.random { "random tokens" } else { "tokens of the data" };
        writeln!(
            out,
            "{}: {} rows of {} {kind}; {}, {} threads",
            self.options.model, self.batch[0], self.batch[1], self.device, self.threads
        )?;
        write!(out, "The machine's limits, measured here: ")?;
        for (dtype, speed) in &self.limits.flops_per_second {
            write!(out, "{:.1} GFLOP/s in products of {dtype}, ", speed / 1e9)?;
        }
        writeln!(out, "{:.1} GB/s from memory", self.limits.bytes_per_second / 1e9)
    }

    fn memory(&self, out: &mut dyn Write) -> io::Result<()> {
        let memory = &self.memory;
        writeln!(out, "\n{:44}  {:>10}", "memory", "MB")?;
        let mut line =
            |name: &str, bytes: u64| writeln!(out, "{name:44}  {:10.2}", bytes as f64 / 1e6);
        line("frozen weights", memory.frozen)?;
        line("trained weights", memory.trained)?;
        line("running averages of the optimizer", memory.optimizer)?;
        line("other arrays", memory.other)?;
        line("added by the step, at its fullest", memory.step)?;
        for made in memory.made_by.iter().take(6) {
            line(
                &format!("  made by {} ({})", shortened(&made.name, 24), made.pieces),
                made.bytes,
            )?;
        }
        line("peak of the arrays", memory.peak)?;
        if let (Some(now), Some(most)) = (memory.resident, memory.most_resident) {
            line("process, resident", now)?;
            line("process, resident at most", most)?;
        }
        Ok(())
    }
}

fn name(row: &Row) -> String {
    let name = shortened(&row.name, NAME);
    if row.inputs.is_empty() {
        return name;
    }
    format!("{name} {}", shortened(&row.inputs.join(" "), 2 * NAME))
}

/// A text whose middle is left out if it is longer than `most`.
fn shortened(text: &str, most: usize) -> String {
    let letters: Vec<char> = text.chars().collect();
    if letters.len() <= most {
        return text.to_owned();
    }
    let half = (most - 1) / 2;
    let ends = [&letters[..half], &['…'], &letters[letters.len() - half..]];
    ends.into_iter().flatten().collect()
}
