//! Who makes, opens by name and unlinks the files of shelves, and when.
//!
//! Who settles a message waits for no file: what a shelf holds is in memory, under a lock that nobody keeps while he works
//! on the disk. Files are made, opened to write a cursor, and unlinked by who may wait, [`Shelves::append`],
//! [`Shelves::persist`] and those who give messages up.
//!
//! A device has one file name, and the next shelf takes the name of the one before. So the name changes hands under a
//! lock of its own, and who holds that looks whose name it is before he opens, makes or unlinks:
//!
//! | step | what is on disk after it, if the program ends here |
//! |---|---|
//! | 1 the last message is settled: the shelf leaves the memory, its name is noted as one to unlink | the old shelf from its last cursor on: what was settled in the last second is repeated |
//! | 2 the file is unlinked, within a second | nothing |
//! | 3 the next shelf begins: where step 2 was not done yet, it is done now, and the name is noted no more | nothing; its messages are in the spool |
//! | 4 its file is made, never one that was there cut short | a file without a header, which is put aside; its messages are in the spool |
//! | 5 header, messages, their sync and that of the folder | the new shelf; the spool is told after that, and repeats what it was not told |
//!
//! An unlink that comes late finds the name noted no more, and leaves the file alone. A cursor that comes late finds that
//! the name is that of another shelf, or writes into a file that is unlinked already.

use std::fs::File;
use std::io;
use std::path::Path;

use super::Shelves;
use super::file::{self, Append, Persist, Shelf};

impl Shelves {
    /// The file to append to.
    pub(super) fn file_for(&self, append: &Append) -> io::Result<File> {
        let Some(path) = append.new_file() else { return append.open() };
        let _names = self.names.lock();
        self.index.lock().empty.remove(path);
        append.open()
    }

    /// Writes down how far each shelf is settled, where that has changed, and unlinks the files of those that are empty.
    /// What is not written is repeated after a crash. Blocks for as long as the disk takes.
    pub fn persist(&self) {
        let _one = self.persisting.lock();
        let moved = self.moved();
        self.write_cursors(&moved);
        self.unlink_empty();
    }

    /// There is something to write down, and nobody is at it.
    pub fn is_to_persist(&self) -> bool {
        self.index.lock().is_moved && !self.persisting.is_locked()
    }

    /// The cursors that have moved.
    pub(super) fn moved(&self) -> Vec<Persist> {
        let mut index = self.index.lock();
        index.is_moved = false;
        index.shelves.values_mut().filter_map(Shelf::changed).collect()
    }

    pub(super) fn write_cursors(&self, moved: &[Persist]) {
        for cursor in moved {
            let file = {
                let _names = self.names.lock();
                // Its shelf may be empty by now, and the name that of the next.
                let is_its = self.index.lock().shelves.get(&cursor.id).is_some_and(|shelf| shelf.salt == cursor.salt);
                if !is_its {
                    continue;
                }
                cursor.open()
            };
            if let Err(error) = file.and_then(|file| cursor.write(&file)) {
                tracing::debug!("the cursor of a shelf is not written: {error}");
            }
        }
    }

    pub(super) fn unlink_empty(&self) {
        let empty: Vec<_> = self.index.lock().empty.iter().cloned().collect();
        for path in empty {
            self.unlink(&path);
        }
    }

    /// Unlinks a file, unless it is that of a new shelf by now.
    pub(super) fn unlink(&self, path: &Path) {
        let _names = self.names.lock();
        if !self.index.lock().empty.contains(path) {
            return;
        }
        match file::unlink(path) {
            Ok(()) => _ = self.index.lock().empty.remove(path),
            // It is tried again: a start would find what was settled.
            Err(error) => {
                tracing::debug!("the file of an empty shelf is not removed: {error}");
                self.index.lock().is_moved = true;
            }
        }
    }
}
