//! Renaming.

use super::super::super::errno::Errno;
use super::super::inode::{Caller, Content, Ino, Time};
use super::{ROOT, Tree, entry_cost};

/// What `rename` does when the new name exists.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Replace {
    /// It goes.
    Yes,
    /// The call fails.
    No,
    /// The two change places.
    Exchange,
}

impl Tree {
    /// Renames.
    pub fn rename(
        &mut self,
        (from, old): (Ino, &[u8]),
        (to, new): (Ino, &[u8]),
        (caller, now): (Caller, Time),
        replace: Replace,
    ) -> Result<(), Errno> {
        let ino = self.lookup(from, old, caller)?;
        let target = match self.lookup(to, new, caller) {
            Ok(target) => Some(target),
            Err(Errno::ENOENT) => None,
            Err(error) => return Err(error),
        };
        match (replace, target) {
            (Replace::No, Some(_)) => return Err(Errno::EEXIST),
            (Replace::Exchange, None) => return Err(Errno::ENOENT),
            _ => {}
        }
        self.check_removable(from, ino, caller)?;
        match target {
            Some(target) => self.check_removable(to, target, caller)?,
            None => self.check_changeable(to, caller)?,
        }
        let moves_directory = self.get(ino)?.entries().is_ok();
        if moves_directory && self.is_below(to, ino)? {
            return Err(Errno::EINVAL);
        }
        if target == Some(ino) {
            return Ok(());
        }
        if let (Replace::Exchange, Some(target)) = (replace, target) {
            if self.get(target)?.entries().is_ok() && self.is_below(from, target)? {
                return Err(Errno::EINVAL);
            }
            return self.exchange((from, old, ino), (to, new, target), now);
        }
        if let Some(target) = target {
            match (moves_directory, &self.get(target)?.content) {
                (true, Content::Directory(entries)) if !entries.is_empty() => return Err(Errno::ENOTEMPTY),
                (true, Content::Directory(_)) => {}
                (true, _) => return Err(Errno::ENOTDIR),
                // The directory above the one that moves cannot be empty, so this is no ancestor of it.
                (false, Content::Directory(_)) => return Err(Errno::EISDIR),
                (false, _) => {}
            }
        } else {
            // The new name is charged before the old one is given back, so nothing can fail after this.
            self.charge(entry_cost(new))?;
        }
        self.get_mut(from)?.entries_mut()?.remove(old);
        self.held -= entry_cost(old);
        let replaced = self.get_mut(to)?.entries_mut()?.insert(new, ino);
        if let Some(replaced) = replaced {
            self.lose_name(replaced, to, now)?;
        }
        self.settle(ino, from, to, now)?;
        [from, to].into_iter().try_for_each(|at| self.get_mut(at).map(|parent| parent.modified(now)))
    }

    fn exchange(
        &mut self,
        (from, old, one): (Ino, &[u8], Ino),
        (to, new, two): (Ino, &[u8], Ino),
        now: Time,
    ) -> Result<(), Errno> {
        self.get_mut(from)?.entries_mut()?.insert(old, two);
        self.get_mut(to)?.entries_mut()?.insert(new, one);
        self.settle(one, from, to, now)?;
        self.settle(two, to, from, now)?;
        [from, to].into_iter().try_for_each(|at| self.get_mut(at).map(|parent| parent.modified(now)))
    }

    /// After a move: a directory knows its parent, and the parents count it.
    fn settle(&mut self, ino: Ino, from: Ino, to: Ino, now: Time) -> Result<(), Errno> {
        let file = self.get_mut(ino)?;
        file.times[2] = now;
        if let Content::Directory(entries) = &mut file.content
            && from != to
        {
            entries.parent = to;
            self.get_mut(from)?.links -= 1;
            self.get_mut(to)?.links += 1;
        }
        Ok(())
    }

    /// Whether the directory `ino` is `above` or lies below it.
    fn is_below(&self, ino: Ino, above: Ino) -> Result<bool, Errno> {
        let mut at = ino;
        loop {
            if at == above {
                return Ok(true);
            }
            if at == ROOT {
                return Ok(false);
            }
            at = self.get(at)?.entries()?.parent;
        }
    }
}
