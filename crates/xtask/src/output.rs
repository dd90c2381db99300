//! Writes the generated files, or compares them with what is there.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

/// What to do with a generated text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Write the files that differ.
    Write,
    /// Name the files that differ.
    Check,
}

/// The generated files of one run.
pub struct Outputs {
    root: PathBuf,
    mode: Mode,
    count: usize,
    stale: Vec<String>,
}

impl Outputs {
    /// No files yet.
    pub fn new(root: &Path, mode: Mode) -> Self {
        Self { root: root.to_path_buf(), mode, count: 0, stale: Vec::new() }
    }

    /// Adds a Rust file, formatted with the repository's rustfmt settings.
    pub fn rust(&mut self, path: &str, text: &str) -> Result<()> {
        let text = rustfmt(&self.root, text).with_context(|| format!("formatting {path}"))?;
        self.text(path, &text)
    }

    /// Adds a file as it is.
    pub fn text(&mut self, path: &str, text: &str) -> Result<()> {
        let file = self.root.join(path);
        self.count += 1;
        if std::fs::read_to_string(&file).is_ok_and(|found| found == text) {
            return Ok(());
        }
        self.stale.push(path.to_string());
        if self.mode == Mode::Write {
            if let Some(folder) = file.parent() {
                std::fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
            }
            std::fs::write(&file, text).with_context(|| format!("cannot write {path}"))?;
        }
        Ok(())
    }

    /// Says what was done; a failure when a checked file is stale.
    pub fn finish(self) -> ExitCode {
        match self.mode {
            Mode::Write => {
                for path in &self.stale {
                    println!("wrote {path}");
                }
                println!("{} generated files, {} changed", self.count, self.stale.len());
                ExitCode::SUCCESS
            }
            Mode::Check if self.stale.is_empty() => {
                println!("{} generated files are current", self.count);
                ExitCode::SUCCESS
            }
            Mode::Check => {
                for path in &self.stale {
                    eprintln!("stale: {path}");
                }
                eprintln!("Run `make gen` and commit the result.");
                ExitCode::FAILURE
            }
        }
    }
}

fn rustfmt(root: &Path, text: &str) -> Result<String> {
    let mut child = Command::new("rustfmt")
        .args(["--edition", "2024", "--config-path"])
        .arg(root)
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run rustfmt: install it with `rustup component add rustfmt`")?;
    // rustfmt reads all of its input before it writes, so neither side waits for the other.
    child.stdin.take().context("rustfmt has no input")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("rustfmt: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8(output.stdout)?)
}
