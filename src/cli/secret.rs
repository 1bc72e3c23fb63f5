//! Where commands get a secret from: a file, the environment or standard input, never the command line.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use crate::secret::Secret;

/// Longest secret read; a connection string has some 300 characters.
const LONGEST: u64 = 64 * 1024;

/// Where a secret is.
#[derive(clap::Args)]
pub(super) struct From {
    /// Reads the secret from this file; without --file and --env it comes from standard input.
    #[arg(long, value_name = "FILE", conflicts_with = "env")]
    file: Option<PathBuf>,
    /// Reads the secret from this environment variable.
    #[arg(long, value_name = "NAME")]
    env: Option<String>,
}

impl From {
    /// The secret, without white space around it; `what` is how it is called.
    pub(super) fn read(&self, what: &str) -> Result<Secret, String> {
        let text = match (&self.file, &self.env) {
            (Some(path), _) => from_file(path)?,
            (None, Some(name)) => {
                Zeroizing::new(std::env::var(name).map_err(|_| format!("the environment variable {name} is not set"))?)
            }
            (None, None) if io::stdin().is_terminal() => {
                return Err(format!("pipe {what} in, or name it with --file or --env"));
            }
            (None, None) => from_reader(&mut io::stdin().lock(), "standard input")?,
        };
        match text.trim() {
            "" => Err(format!("{what} is empty")),
            text => Ok(Secret::new(text.to_owned())),
        }
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, String> {
    let mut file = std::fs::File::open(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    from_reader(&mut file, &path.display().to_string())
}

fn from_reader(reader: &mut impl io::Read, name: &str) -> Result<Zeroizing<String>, String> {
    let mut text = Zeroizing::new(String::with_capacity(1024));
    reader.take(LONGEST).read_to_string(&mut text).map_err(|error| format!("cannot read {name}: {error}"))?;
    Ok(text)
}
