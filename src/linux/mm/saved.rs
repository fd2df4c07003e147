//! The address space's part of a checkpoint. The pages themselves, and the page tables, are in guest RAM.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::super::checkpoint::{CheckpointError, Finder, Keeper, Place, RestoreError};
use super::mapped_file::{MappedFile, SharedPage};
use super::object::{LARGEST, ObjectId, Objects};
use super::space::{AddressSpace, Backing, Region};
use super::trampolines::TRAMPOLINES;
use crate::vmm::{Access, FRAME_SIZE, Frame, Frames, GuestMemory, SavedFrames, layout};

/// Regions, the files behind them, and which frames are in use.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SavedSpace {
    /// The frames whose content the checkpoint is of.
    pub frames: SavedFrames,
    regions: Vec<SavedRegion>,
    files: Vec<SavedMappedFile>,
    heap: (u64, u64),
    objects: Objects,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedRegion {
    start: u64,
    end: u64,
    access: u8,
    shared: bool,
    may_write: bool,
    label: String,
    /// Index among the files, and the offset there.
    file: Option<(u32, u64)>,
    /// The same for an object.
    object: Option<(ObjectId, u64)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct SavedMappedFile {
    place: Place,
    path: String,
    writable: bool,
    /// Pages of shared mappings: number in the file, frame, whether the program may have stored to it.
    shared: Vec<(u64, Frame, bool)>,
}

/// Names of regions that programs see in `/proc/self/maps`.
const LABELS: [&str; 5] = ["[heap]", "[stack]", "[vvar]", "[vdso]", TRAMPOLINES];

impl AddressSpace {
    /// What a checkpoint keeps. Writes back what the program stored into shared mappings of files.
    pub fn save(&self, keeper: &mut Keeper<'_>) -> Result<SavedSpace, CheckpointError> {
        for (start, region) in self.regions().filter(|(_, region)| region.shared) {
            self.write_back(start, region.end, start, region);
        }
        let (mut regions, mut files, mut known) = (Vec::new(), Vec::new(), Vec::<*const MappedFile>::new());
        for (start, region) in self.regions() {
            let file = match &region.backing {
                Backing::Zero | Backing::Object { .. } => None,
                Backing::File { file, offset } => {
                    let index = match known.iter().position(|other| *other == Arc::as_ptr(file)) {
                        Some(index) => index,
                        None => {
                            files.push(save_file(file, keeper)?);
                            known.push(Arc::as_ptr(file));
                            known.len() - 1
                        }
                    };
                    Some((index as u32, *offset))
                }
            };
            let label = region.label.into();
            let object = match region.backing {
                Backing::Object { object, offset } => Some((object, offset)),
                _ => None,
            };
            let Region { end, access, shared, may_write, .. } = *region;
            let access = access.bits();
            regions.push(SavedRegion { start, end, access, shared, may_write, label, file, object });
        }
        let heap = (self.heap_start, self.heap_end);
        // What large pages hide is noted beside the RAM, and no copy has that.
        self.tables().make_all_small();
        Ok(SavedSpace { frames: self.frames.save(), regions, files, heap, objects: self.objects.clone() })
    }

    /// The address space as it was, over RAM that holds the same; `frames` are in use there.
    pub fn restore(
        saved: &SavedSpace,
        frames: Frames,
        memory: Arc<GuestMemory>,
        finder: &Finder<'_>,
    ) -> Result<AddressSpace, RestoreError> {
        let damaged = RestoreError::Damaged("the address space");
        let files: Vec<_> = saved
            .files
            .iter()
            .map(|file| restore_file(file, finder).map(Arc::new))
            .collect::<Result<_, _>>()?;
        let mut owned = BTreeSet::new();
        for (index, frame, _) in saved.files.iter().flat_map(|file| &file.shared) {
            if *index >= LARGEST / FRAME_SIZE || !frames.is_used(*frame) || !owned.insert(*frame) {
                return Err(damaged);
            }
        }
        let mut space = AddressSpace::new(memory);
        space.frames = frames;
        space.shares_files = !owned.is_empty();
        space.files = files.iter().map(|file| (file.identity, Arc::downgrade(file))).collect();
        (space.heap_start, space.heap_end) = saved.heap;
        space.objects = saved.objects.clone();
        if !space.objects.is_sound(space.frames.total(), owned) {
            return Err(damaged);
        }
        let mut free_from = 0;
        for region in &saved.regions {
            let len = region.end.saturating_sub(region.start);
            let fits = |offset: u64| offset.is_multiple_of(FRAME_SIZE) && offset.checked_add(len).is_some();
            let backing = match (region.file, region.object) {
                (None, None) => Some(Backing::Zero),
                (None, Some((object, offset))) => {
                    (fits(offset) && space.objects.has(object)).then_some(Backing::Object { object, offset })
                }
                (Some((index, offset)), _) => files
                    .get(index as usize)
                    .filter(|_| fits(offset))
                    .map(|file| Backing::File { file: Arc::clone(file), offset }),
            };
            let whole = region.start % FRAME_SIZE == 0 && region.end % FRAME_SIZE == 0;
            let (Some(backing), Some(access)) = (backing, Access::from_bits(region.access)) else {
                return Err(damaged);
            };
            if region.start < free_from
                || region.end <= region.start
                || region.end > layout::USER_END
                || !whole
            {
                return Err(damaged);
            }
            free_from = region.end;
            let label = LABELS.into_iter().find(|label| *label == region.label).unwrap_or_default();
            let SavedRegion { end, shared, may_write, .. } = *region;
            let restored = Region { end, access, backing, shared, may_write, label };
            space.regions.insert(region.start, restored);
        }
        Ok(space)
    }
}

fn save_file(file: &MappedFile, keeper: &mut Keeper<'_>) -> Result<SavedMappedFile, CheckpointError> {
    let place = keeper.note(file.fd(), &PathBuf::from(&file.path))?;
    let shared = file.shared().iter().map(|(index, page)| (*index, page.frame, page.stored)).collect();
    let writable = file.writer().is_some();
    Ok(SavedMappedFile { place, path: file.path.clone(), writable, shared })
}

fn restore_file(saved: &SavedMappedFile, finder: &Finder<'_>) -> Result<MappedFile, RestoreError> {
    // A file without a name has become another one of the host's: its identity is looked up anew.
    let (fd, identity) = if saved.writable {
        let (fd, identity) = finder.open_unchanged(&saved.place)?;
        (Arc::new(fd), identity)
    } else {
        finder.open_shared(&saved.place)?
    };
    let file = MappedFile::new(fd, saved.writable, saved.path.clone(), identity)
        .map_err(|_| RestoreError::Damaged("the mapped files"))?;
    let pages = saved
        .shared
        .iter()
        .map(|(index, frame, stored)| (*index, SharedPage { frame: *frame, stored: *stored }));
    file.shared().extend(pages);
    Ok(file)
}
