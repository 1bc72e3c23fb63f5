//! `brownbridge passwd`: users of the plaintext port.

use std::fs::{self, File};
use std::io::{self, BufRead, IsTerminal, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use zeroize::Zeroizing;

use super::check::{could_not_run, print, print_findings};
use crate::app::text_file;
use crate::diag::SourceFile;
use crate::fence::users::{self, SALT, Users};
use crate::secret::Secret;

/// Longest password read.
const LONGEST: u64 = 65_535;

/// Adds a user of the plaintext port to a users file, gives it a new password, or removes it.
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  brownbridge passwd users.toml panel            asks for the password, twice\n  \
    pass show panel | brownbridge passwd users.toml panel --stdin\n  \
    brownbridge passwd users.toml panel --delete\n\n\
    The file gets Argon2id hashes and the mode 0600; a new one belongs to the owner of its folder.\n\
    A running bridge takes it up within seconds.\n\n\
    Exit code: 0 done, 1 the users file has errors, 2 could not run.")]
pub(super) struct Args {
    /// The users file, `users` of [broker] in bridge.toml; made where there is none.
    file: PathBuf,
    /// The user's name.
    user: String,
    /// Reads the password from standard input, up to its first line end.
    #[arg(long, conflicts_with = "delete")]
    stdin: bool,
    /// Removes the user.
    #[arg(long)]
    delete: bool,
}

pub(super) fn run(args: Args) -> ExitCode {
    let text = match text_file::read(&args.file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !args.delete => String::new(),
        Err(error) => return could_not_run(&text_file::cannot_read(&args.file, &error)),
    };
    let (known, found) = Users::parse(0, &text);
    let Some(known) = known else {
        let source = SourceFile { path: args.file.display().to_string(), text: users::masked(&text) };
        print_findings(&found, &[source]);
        return ExitCode::from(1);
    };
    if let Some(problem) = users::name_problem(&args.user) {
        return could_not_run(problem);
    }
    let is_known = known.names().any(|name| name == args.user);
    match edit(&args, &text, is_known).and_then(|edited| write(&args.file, &edited)) {
        Ok(()) => {
            let done = match (args.delete, is_known) {
                (true, _) => "removed",
                (false, true) => "has a new password",
                (false, false) => "added",
            };
            print(&format!("{}: user {} {done}\n", args.file.display(), args.user));
            ExitCode::SUCCESS
        }
        Err(problem) => could_not_run(&problem),
    }
}

/// The new text of the file.
fn edit(args: &Args, text: &str, is_known: bool) -> Result<String, String> {
    let file = args.file.display();
    if args.delete {
        if !is_known {
            return Err(format!("there is no user {} in {file}", args.user));
        }
        return users::remove(text, &args.user)
            .ok_or_else(|| format!("{file} is not laid out as one line a user: remove it by hand"));
    }
    let password = if args.stdin { from_stdin() } else { from_terminal(&args.user) }?;
    if password.expose().is_empty() {
        return Err("an empty password is no password".into());
    }
    let hash = users::hash(&password, &rand::random::<[u8; SALT]>()).ok_or("the password cannot be hashed")?;
    users::set(text, &args.user, &hash).ok_or_else(|| format!("{file} is not laid out as one table [users]"))
}

fn from_stdin() -> Result<Secret, String> {
    if io::stdin().is_terminal() {
        return Err("--stdin is for a pipe; without it the password is asked for".into());
    }
    read_line(&mut io::stdin().lock())
}

fn from_terminal(user: &str) -> Result<Secret, String> {
    let terminal = File::options().read(true).write(true).open("/dev/tty");
    let terminal = terminal.map_err(|_| "there is no terminal to ask on: pipe the password in with --stdin")?;
    let quiet = Quiet::new(&terminal).map_err(|error| format!("the terminal's echo cannot be turned off: {error}"))?;
    let first = quiet.ask(&format!("password of {user}: "))?;
    let again = quiet.ask("the same again: ")?;
    if first.expose() == again.expose() { Ok(first) } else { Err("the two are not the same".into()) }
}

/// A terminal that shows nothing of what is typed, until the value is dropped.
struct Quiet<'t> {
    terminal: &'t File,
    before: Termios,
}

impl<'t> Quiet<'t> {
    fn new(terminal: &'t File) -> io::Result<Self> {
        let before = tcgetattr(terminal)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        silent.local_modes.insert(LocalModes::ECHONL);
        tcsetattr(terminal, OptionalActions::Drain, &silent)?;
        Ok(Self { terminal, before })
    }

    fn ask(&self, question: &str) -> Result<Secret, String> {
        let mut terminal = self.terminal;
        terminal.write_all(question.as_bytes()).map_err(|error| error.to_string())?;
        read_line(&mut io::BufReader::with_capacity(1, terminal))
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        let _ = tcsetattr(self.terminal, OptionalActions::Drain, &self.before);
    }
}

fn read_line(from: &mut impl BufRead) -> Result<Secret, String> {
    let mut line = Zeroizing::new(Vec::with_capacity(256));
    from.take(LONGEST).read_until(b'\n', &mut line).map_err(|error| format!("the password cannot be read: {error}"))?;
    while matches!(line.last(), Some(b'\n' | b'\r')) {
        line.pop();
    }
    let text = std::str::from_utf8(&line).map_err(|_| "the password is not UTF-8 text")?;
    Ok(Secret::new(text.to_owned()))
}

/// Writes the file anew beside the old one and puts it in its place, readable for its owner only.
fn write(path: &Path, text: &str) -> Result<(), String> {
    let problem = |error: io::Error| format!("cannot write {}: {error}", path.display());
    // A link stays a link: what it points to is replaced.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let new = path.with_file_name(name);
    let written = (|| {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        // Root edits the file of the service's own user, who must be able to read it; a new one belongs to the owner
        // of its folder.
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if let Ok(owner) = fs::metadata(path).or_else(|_| fs::metadata(folder)) {
            let (uid, gid) = (owner.uid(), owner.gid());
            let _ = std::os::unix::fs::fchown(&file, Some(uid), Some(gid));
        }
        file.sync_all()?;
        fs::rename(&new, path)
    })();
    written.map_err(|error| {
        let _ = fs::remove_file(&new);
        problem(error)
    })
}
