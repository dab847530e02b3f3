//! A fence on storage that both sides mount.
//!
//! ```text
//!   PATH.7                    the claim of generation 7: its owner's name, and `relief` behind it
//!                             on a line of its own if it is one
//!   PATH.draft-8-HASH         a claim about to be made
//! ```
//!
//! A claim is written under another name, synced, and then linked to its own: linking fails if the
//! name exists, on local file systems and on NFS alike, so a claim is either absent or whole. No
//! lock is held at any time, so a claimant that is stopped cannot keep the other one waiting.
//!
//! Once linking was tried, what counts is who holds the claim, not what the host said of the trial:
//! the answer of a server may be lost after it has acted.

use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::fence::{Claim, ClaimKind, Fence, FenceError, Verdict};
use crate::time::Generation;

/// Claims older than this many generations are removed.
const KEPT_CLAIMS: u64 = 8;
/// Longest text of a claim that is read back.
const MAX_TEXT: u64 = 4096;
/// What stands behind the owner of a claim that is a relief.
const RELIEF: &str = "\nrelief";

/// A fence of files.
#[derive(Clone, Debug)]
pub struct FileFence {
    path: PathBuf,
}

impl FileFence {
    /// A fence of claims named `path` with the generation behind a dot.
    #[must_use]
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// The folder that holds the claims.
    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }

    /// The claim file of a generation.
    fn claim_path(&self, generation: Generation) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{generation}"));
        PathBuf::from(name)
    }

    /// The name under which a claim is written before it is linked.
    fn draft_path(&self, claim: &Claim) -> PathBuf {
        let tag = twox_hash::XxHash3_64::oneshot(claim.owner.as_bytes());
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".draft-{}-{tag:016x}", claim.generation));
        PathBuf::from(name)
    }

    /// All generations that are claimed, ascending.
    fn claimed(&self) -> Result<Vec<Generation>, FenceError> {
        let mut prefix = self.path.file_name().unwrap_or_default().to_os_string();
        prefix.push(".");
        let prefix = prefix.to_string_lossy().into_owned();
        let folder = fs::read_dir(self.folder()).map_err(|source| self.error("list", source))?;
        let mut found = Vec::new();
        for entry in folder {
            let entry = entry.map_err(|source| self.error("list", source))?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let number = name
                .strip_prefix(&prefix)
                .and_then(|rest| rest.parse().ok());
            found.extend(number.map(Generation));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Reads the claim of a generation.
    fn read(&self, generation: Generation) -> io::Result<Claim> {
        let mut text = String::new();
        let file = File::open(self.claim_path(generation))?;
        file.take(MAX_TEXT).read_to_string(&mut text)?;
        let text = text.trim_end();
        let (owner, kind) = match text.strip_suffix(RELIEF) {
            Some(owner) => (owner, ClaimKind::Relief),
            None => (text, ClaimKind::Live),
        };
        Ok(Claim {
            generation,
            owner: owner.to_owned(),
            kind,
        })
    }

    /// Who has claimed a generation that is claimed.
    fn holder(&self, generation: Generation) -> Result<Claim, FenceError> {
        self.read(generation)
            .map_err(|source| self.error("read a claim", source))
    }

    /// Writes the draft of a claim. One that is left from before is not written over: it may be
    /// linked already, and would change what was claimed.
    fn write_draft(&self, claim: &Claim) -> io::Result<PathBuf> {
        let draft = self.draft_path(claim);
        match fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&draft)?;
        file.write_all(claim.owner.as_bytes())?;
        if claim.kind == ClaimKind::Relief {
            file.write_all(RELIEF.as_bytes())?;
        }
        file.write_all(b"\n")?;
        file.sync_all()?;
        Ok(draft)
    }

    /// Whose the generation is, now that linking was tried with this outcome.
    fn settle(&self, claim: &Claim, linked: io::Result<()>) -> Result<Verdict, FenceError> {
        let found = match (self.read(claim.generation), linked) {
            (Ok(found), _) => found,
            // It is not there, so the trial has failed indeed.
            (Err(_), Err(error)) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(self.error("write a claim", error));
            }
            // It is there and cannot be read; repeating the claim finds out.
            (Err(_), _) => return Ok(Verdict::Pending),
        };
        if found != *claim {
            return Ok(Verdict::Lost(found));
        }
        // Someone may have removed old claims, ours to be among them, while this side was stopped:
        // the latest claim is never removed and tells.
        let Ok(claimed) = self.claimed() else {
            return Ok(Verdict::Pending);
        };
        if let Some(latest) = claimed.last().filter(|latest| **latest > claim.generation) {
            let later = self.read(*latest);
            return Ok(later.map_or(Verdict::Pending, Verdict::Lost));
        }
        if self.sync_folder().is_err() {
            return Ok(Verdict::Pending);
        }
        self.prune(&claimed, claim.generation);
        Ok(Verdict::Won)
    }

    /// Makes what was linked last. A file system that knows no such thing is content already.
    fn sync_folder(&self) -> io::Result<()> {
        match File::open(self.folder())?.sync_all() {
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::InvalidInput | ErrorKind::Unsupported
                ) =>
            {
                Ok(())
            }
            done => done,
        }
    }

    /// Removes claims that nobody can still ask for. One that cannot be removed only takes room.
    fn prune(&self, claimed: &[Generation], latest: Generation) {
        for generation in claimed {
            if generation.0.saturating_add(KEPT_CLAIMS) < latest.0 {
                fs::remove_file(self.claim_path(*generation)).ok();
            }
        }
    }

    /// An error of this fence.
    fn error(&self, action: &'static str, source: io::Error) -> FenceError {
        FenceError {
            fence: self.describe(),
            action,
            source,
        }
    }
}

impl Fence for FileFence {
    fn describe(&self) -> String {
        format!("file:{}", self.path.display())
    }

    fn current(&mut self) -> Result<Option<Claim>, FenceError> {
        match self.claimed()?.last() {
            Some(generation) => self.holder(*generation).map(Some),
            None => Ok(None),
        }
    }

    fn claim(&mut self, from: Generation, claim: &Claim) -> Result<Verdict, FenceError> {
        if let Some(latest) = self.claimed()?.last().filter(|latest| **latest > from) {
            let found = self.holder(*latest)?;
            if found != *claim {
                return Ok(Verdict::Lost(found));
            }
            self.sync_folder()
                .map_err(|source| self.error("sync a claim", source))?;
            return Ok(Verdict::Won);
        }
        let draft = self
            .write_draft(claim)
            .map_err(|source| self.error("write a draft", source))?;
        let linked = fs::hard_link(&draft, self.claim_path(claim.generation));
        // A draft that cannot be removed only takes room.
        fs::remove_file(&draft).ok();
        self.settle(claim, linked)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A folder of its own for each test.
    fn folder(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("ft-fence-{name}-{}", std::process::id()));
        fs::remove_dir_all(&path).ok();
        fs::create_dir_all(&path).unwrap();
        path
    }

    fn live(generation: u64, owner: &str) -> Claim {
        Claim {
            generation: Generation(generation),
            owner: owner.into(),
            kind: ClaimKind::Live,
        }
    }

    fn relief(generation: u64, owner: &str) -> Claim {
        Claim {
            kind: ClaimKind::Relief,
            ..live(generation, owner)
        }
    }

    #[test]
    fn the_first_claim_wins_the_second_loses_and_learns_the_owner() {
        let folder = folder("race");
        let mut one = FileFence::new(folder.join("vm"));
        let mut two = one.clone();
        let (from, ours) = (Generation(0), live(1, "a"));
        assert_eq!(one.current().unwrap(), None);
        assert_eq!(one.claim(from, &ours).unwrap(), Verdict::Won);
        let lost = two.claim(from, &live(1, "b")).unwrap();
        assert_eq!(lost, Verdict::Lost(ours.clone()));
        assert_eq!(two.current().unwrap(), Some(ours.clone()));
        let repeated = one.claim(from, &ours).unwrap();
        assert_eq!(repeated, Verdict::Won, "repeated by its owner");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_relief_is_told_from_a_claim_to_be_live_even_by_its_owner() {
        let folder = folder("relief");
        let mut fence = FileFence::new(folder.join("vm"));
        let (from, ours) = (Generation(0), relief(1, "a"));
        assert_eq!(fence.claim(from, &ours).unwrap(), Verdict::Won);
        assert_eq!(fence.claim(from, &ours).unwrap(), Verdict::Won);
        assert_eq!(fence.current().unwrap(), Some(ours.clone()));
        let alone = fence.claim(from, &live(1, "a")).unwrap();
        assert_eq!(alone, Verdict::Lost(ours));
        let next = fence.claim(Generation(1), &live(2, "a")).unwrap();
        assert_eq!(next, Verdict::Won);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_claim_that_stands_is_won_whatever_was_said_of_linking_it() {
        let folder = folder("stands");
        let mut fence = FileFence::new(folder.join("vm"));
        let ours = live(1, "a");
        let lost_answer = || Err(io::Error::from(ErrorKind::TimedOut));
        let error = fence.settle(&ours, lost_answer()).unwrap_err().to_string();
        assert!(error.contains("write a claim"), "{error}");
        // The server has acted, and its answer is lost; the draft is left behind as well.
        let draft = fence.write_draft(&ours).unwrap();
        fs::hard_link(&draft, fence.claim_path(ours.generation)).unwrap();
        assert_eq!(fence.settle(&ours, lost_answer()).unwrap(), Verdict::Won);
        let others = fence.settle(&live(1, "b"), lost_answer()).unwrap();
        assert_eq!(others, Verdict::Lost(ours.clone()));
        // Another draft by that name leaves the claim as it is.
        fence.write_draft(&relief(1, "a")).unwrap();
        assert_eq!(fence.current().unwrap(), Some(ours.clone()));
        assert_eq!(fence.claim(Generation(0), &ours).unwrap(), Verdict::Won);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_claimant_generations_behind_loses_even_though_old_claims_were_removed() {
        let folder = folder("stale");
        let mut fence = FileFence::new(folder.join("vm"));
        for generation in 0..20 {
            let won = fence.claim(Generation(generation), &live(generation + 1, "a"));
            assert_eq!(won.unwrap(), Verdict::Won);
        }
        assert!(!folder.join("vm.3").exists(), "old claims are removed");
        let lost = fence.claim(Generation(2), &live(3, "b")).unwrap();
        assert_eq!(lost, Verdict::Lost(live(20, "a")));
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_fence_whose_folder_is_missing_is_an_error_that_names_it() {
        let mut fence = FileFence::new("/nonexistent-folder/vm");
        let error = fence
            .claim(Generation(0), &live(1, "a"))
            .unwrap_err()
            .to_string();
        assert!(
            error.starts_with("fence file:/nonexistent-folder/vm: list:"),
            "{error}"
        );
    }

    #[test]
    fn many_racing_claimants_have_one_winner() {
        let folder = folder("many");
        let path = folder.join("vm");
        let racers: Vec<_> = (0..8)
            .map(|number| {
                let mut fence = FileFence::new(&path);
                std::thread::spawn(move || {
                    let claim = live(1, &format!("racer {number}"));
                    fence.claim(Generation(0), &claim).unwrap() == Verdict::Won
                })
            })
            .collect();
        let won = racers.into_iter().map(|racer| racer.join().unwrap());
        assert_eq!(won.filter(|won| *won).count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
