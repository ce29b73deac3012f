//! `cargo xtask tidy`: the house rules that the compiler does not hold. Run by `make test`.
//! It knows the repository as files and nothing of the product.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};

mod layers;
mod texts;

fn main() -> ExitCode {
    match run() {
        Ok(findings) if findings.is_empty() => ExitCode::SUCCESS,
        Ok(findings) => {
            for finding in &findings {
                eprintln!("{finding}");
            }
            eprintln!("tidy: {} finding(s)", findings.len());
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<Vec<String>> {
    match std::env::args().nth(1).as_deref() {
        Some("tidy") => {}
        _ => bail!("usage: cargo xtask tidy"),
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("find the root of the checkout")?;
    let files = tracked_files(root)?;
    let mut findings = layers::check(root)?;
    findings.extend(texts::check(root, &files)?);
    findings.extend(texts::check_error_pages(root, &files)?);
    findings.sort();
    Ok(findings)
}

/// Files that git tracks or would track, relative to the root.
fn tracked_files(root: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let output = std::process::Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .output()
        .context("run git ls-files")?;
    let list = String::from_utf8(output.stdout).context("read file names")?;
    Ok(list.lines().map(PathBuf::from).filter(|path| root.join(path).is_file()).collect())
}
