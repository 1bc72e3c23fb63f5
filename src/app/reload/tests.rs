//! Watching, on a clock that runs as fast as the files are looked at.

use std::fs;
use std::sync::{Mutex, mpsc};

use tokio::sync::Notify;
use tokio::time::{Instant, sleep};

use super::*;
use crate::message::Timestamp;

/// A file whose text is in use when it does not say `bad`.
struct Note {
    path: PathBuf,
    taken: Arc<Mutex<Vec<String>>>,
    told: Arc<Notify>,
}

impl Watched for Note {
    const WHAT: &'static str = "the notes";
    const STILL: Duration = Duration::from_secs(1);
    type Found = String;

    fn paths(&self) -> Vec<PathBuf> {
        vec![self.path.clone()]
    }

    fn read(&self) -> String {
        let text = fs::read_to_string(&self.path).unwrap_or_else(|error| error.kind().to_string());
        if text == "changes while it is read" {
            fs::write(&self.path, "whole").unwrap();
        }
        text
    }

    fn take(&self, found: String, _: bool) -> Result<(), NotTaken> {
        self.taken.lock().unwrap().push(found.clone());
        self.told.notify_one();
        if found == "bad" { Err("the note is bad".to_owned().into()) } else { Ok(()) }
    }
}

#[tokio::test(start_paused = true)]
async fn files_are_taken_whole_and_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("note");
    fs::write(&path, "first").unwrap();
    let (taken, told) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let standing = Arc::new(Standing::new(Timestamp(0)));
    let mut watches = Watches::new(Arc::clone(&standing));
    watches.add(Note { path: path.clone(), taken: Arc::clone(&taken), told: Arc::clone(&told) });
    let reloader = watches.reloader(Arc::new(BridgeToml::new(path.clone(), String::new())));
    let took = || std::mem::take(&mut *taken.lock().unwrap()).join(", ");

    sleep(10 * LOOK).await;
    assert_eq!(took(), "", "nothing has changed");

    // An upload over a slow line: a piece each 0.9 s.
    let began = Instant::now();
    for text in ["", "s", "se", "sec", "seco", "secon", "second"] {
        fs::write(&path, text).unwrap();
        sleep(Duration::from_millis(900)).await;
    }
    told.notified().await;
    assert_eq!(took(), "second");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());

    fs::write(&path, "changes while it is read").unwrap();
    told.notified().await;
    assert_eq!(took(), "whole");

    // Told once, as long as nobody asks.
    fs::write(&path, "bad").unwrap();
    sleep(10 * LOOK).await;
    assert_eq!((took(), standing.warning().is_some()), ("bad".to_owned(), true));
    let reloaded = reloader.reload().await;
    assert_eq!(took(), "bad", "asked for, and done when that returns");
    assert_eq!(reloaded.refused.last(), Some(&("the notes", "the note is bad".to_owned().into())));
    fs::remove_file(&path).unwrap();
    sleep(10 * LOOK).await;
    assert_eq!((took(), standing.warning()), ("entity not found".to_owned(), None));

    // Other text of the same length, and the time of the file is set back.
    fs::write(&path, "good").unwrap();
    sleep(10 * LOOK).await;
    let before = fs::metadata(&path).unwrap();
    while fs::metadata(&path).unwrap().ctime_nsec() == before.ctime_nsec() {
        fs::write(&path, "same").unwrap();
        fs::File::options().write(true).open(&path).unwrap().set_modified(before.modified().unwrap()).unwrap();
    }
    sleep(10 * LOOK).await;
    assert_eq!(took(), "good, same");
    watches.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_is_written_all_the_time_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("note");
    let (taken, told) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Notify::new()));
    let standing = Arc::new(Standing::new(Timestamp(0)));
    let mut watches = Watches::new(Arc::clone(&standing));
    watches.add(Note { path: path.clone(), taken: Arc::clone(&taken), told });
    let mut text = String::new();
    while standing.warning().is_none() {
        text.push('x');
        fs::write(&path, &text).unwrap();
        sleep(Duration::from_millis(500)).await;
    }
    assert!(standing.warning().unwrap().starts_with("the notes are not taken up: they are being written all the time"));
    assert!(taken.lock().unwrap().is_empty());
    while standing.warning().is_some() {
        sleep(LOOK).await;
    }
    assert_eq!(*taken.lock().unwrap(), [text], "taken once it lies still");
    watches.stop().await;
}

/// Files on a disk that does not answer.
struct Hanging(Mutex<mpsc::Receiver<()>>);

impl Watched for Hanging {
    const WHAT: &'static str = "the hanging ones";
    const STILL: Duration = Duration::from_secs(1);
    type Found = ();

    fn paths(&self) -> Vec<PathBuf> {
        let _ = self.0.lock().unwrap().recv();
        Vec::new()
    }

    fn read(&self) {}

    fn take(&self, (): (), _: bool) -> Result<(), NotTaken> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_does_not_answer_does_not_keep_the_program() {
    let (repaired, answer) = mpsc::channel();
    let mut watches = Watches::new(Arc::new(Standing::new(Timestamp(0))));
    watches.add_unseen(Hanging(Mutex::new(answer)));
    let stopped = tokio::time::timeout(Duration::from_secs(30), watches.stop()).await;
    drop(repaired);
    assert!(stopped.is_ok());
}
