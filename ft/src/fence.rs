//! Fences: who may be primary is settled by an atomic test-and-set of the generation.
//!
//! A generation can be *claimed* once. Whoever wants to act as primary without its peer claims the
//! next one; the other's claim then fails and it halts itself. Both may try at the same moment,
//! either may be stopped at any point, and a claim may be repeated by its owner.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use crate::time::Generation;

/// Claims older than this many generations are removed.
const KEPT_CLAIMS: u64 = 8;
/// Longest owner's name that is read back.
const MAX_OWNER: u64 = 4096;

/// Who has claimed a generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The generation.
    pub generation: Generation,
    /// Name of the claimant.
    pub owner: String,
}

/// What came of a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The generation is the claimant's.
    Won,
    /// It, or a later one, is someone else's.
    Lost(Claim),
    /// Not settled yet; ask again.
    Pending,
}

/// Settles who is primary.
pub trait Fence: Send {
    /// The fence as the operator writes it.
    fn describe(&self) -> String;

    /// The latest claim, if there is any.
    ///
    /// # Errors
    /// If the fence cannot be asked.
    fn current(&mut self) -> Result<Option<Claim>, FenceError>;

    /// Claims `to` for `owner`, provided that nothing later than `from` is claimed. Repeating a
    /// claim that was won wins again.
    ///
    /// # Errors
    /// If the fence cannot be asked; whether the claim stands is then unknown, and only repeating
    /// it tells.
    fn claim(
        &mut self,
        from: Generation,
        to: Generation,
        owner: &str,
    ) -> Result<Verdict, FenceError>;

    /// Whether both sides see the same claims, so that one can check the other's.
    fn is_shared(&self) -> bool {
        true
    }
}

/// A fence cannot be asked.
#[derive(Debug, thiserror::Error)]
#[error("fence {fence}: {action}: {source}")]
pub struct FenceError {
    /// Which fence.
    pub fence: String,
    /// What was tried.
    pub action: &'static str,
    /// What the host said.
    #[source]
    pub source: io::Error,
}

/// No fence: every claim is won. Two machines may be live after a network partition.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoFence;

impl Fence for NoFence {
    fn describe(&self) -> String {
        "none".into()
    }

    fn current(&mut self) -> Result<Option<Claim>, FenceError> {
        Ok(None)
    }

    fn claim(&mut self, _: Generation, _: Generation, _: &str) -> Result<Verdict, FenceError> {
        Ok(Verdict::Won)
    }

    fn is_shared(&self) -> bool {
        false
    }
}

/// A fence on storage that both sides mount.
///
/// The claim of generation `n` is the file `PATH.n`, holding its owner's name. It is written under
/// another name, synced, and then linked to its own: linking fails if the name exists, on local
/// file systems and on NFS alike, so a claim is either absent or whole. No lock is held at any
/// time, so a claimant that is stopped cannot keep the other one waiting.
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
    fn draft_path(&self, generation: Generation, owner: &str) -> PathBuf {
        let tag = xxhash_rust::xxh3::xxh3_64(owner.as_bytes());
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".draft-{generation}-{tag:016x}"));
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

    /// Who has claimed a generation.
    fn owner(&self, generation: Generation) -> Result<Claim, FenceError> {
        let read = || -> io::Result<String> {
            let mut owner = String::new();
            let file = File::open(self.claim_path(generation))?;
            file.take(MAX_OWNER).read_to_string(&mut owner)?;
            Ok(owner.trim_end().to_owned())
        };
        let owner = read().map_err(|source| self.error("read a claim", source))?;
        Ok(Claim { generation, owner })
    }

    /// Writes the draft of a claim and links it to its name; an existing claim is left alone.
    fn link(&self, generation: Generation, owner: &str) -> io::Result<()> {
        let draft = self.draft_path(generation, owner);
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(&draft)?;
        file.write_all(owner.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        let linked = fs::hard_link(&draft, self.claim_path(generation));
        let removed = fs::remove_file(&draft);
        match linked {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            Err(_) | Ok(()) => {}
        }
        removed?;
        File::open(self.folder())?.sync_all()
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
            Some(generation) => self.owner(*generation).map(Some),
            None => Ok(None),
        }
    }

    fn claim(
        &mut self,
        from: Generation,
        to: Generation,
        owner: &str,
    ) -> Result<Verdict, FenceError> {
        if let Some(latest) = self.claimed()?.last().filter(|latest| **latest > from) {
            let claim = self.owner(*latest)?;
            let repeated = claim.generation == to && claim.owner == owner;
            return Ok(if repeated {
                Verdict::Won
            } else {
                Verdict::Lost(claim)
            });
        }
        self.link(to, owner)
            .map_err(|source| self.error("write a claim", source))?;
        let claim = self.owner(to)?;
        if claim.owner != owner {
            return Ok(Verdict::Lost(claim));
        }
        // Someone may have removed old claims, ours to be among them, while this side was stopped:
        // the latest claim is never removed and tells.
        let claimed = self.claimed()?;
        if let Some(latest) = claimed.last().filter(|latest| **latest > to) {
            return Ok(Verdict::Lost(self.owner(*latest)?));
        }
        self.prune(&claimed, to);
        Ok(Verdict::Won)
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

    #[test]
    fn the_first_claim_wins_the_second_loses_and_learns_the_owner() {
        let folder = folder("race");
        let mut one = FileFence::new(folder.join("vm"));
        let mut two = one.clone();
        let (from, to) = (Generation(0), Generation(1));
        assert_eq!(one.current().unwrap(), None);
        assert_eq!(one.claim(from, to, "a").unwrap(), Verdict::Won);
        let claim = Claim {
            generation: to,
            owner: "a".into(),
        };
        assert_eq!(
            two.claim(from, to, "b").unwrap(),
            Verdict::Lost(claim.clone())
        );
        assert_eq!(two.current().unwrap(), Some(claim));
        assert_eq!(
            one.claim(from, to, "a").unwrap(),
            Verdict::Won,
            "repeated by its owner"
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_claimant_generations_behind_loses_even_though_old_claims_were_removed() {
        let folder = folder("stale");
        let mut fence = FileFence::new(folder.join("vm"));
        for generation in 0..20 {
            let to = Generation(generation + 1);
            assert_eq!(
                fence.claim(Generation(generation), to, "a").unwrap(),
                Verdict::Won
            );
        }
        assert!(!folder.join("vm.3").exists(), "old claims are removed");
        let lost = fence.claim(Generation(2), Generation(3), "b").unwrap();
        assert_eq!(
            lost,
            Verdict::Lost(Claim {
                generation: Generation(20),
                owner: "a".into()
            })
        );
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_fence_whose_folder_is_missing_is_an_error_that_names_it() {
        let mut fence = FileFence::new("/nonexistent-folder/vm");
        let error = fence
            .claim(Generation(0), Generation(1), "a")
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
                    let owner = format!("racer {number}");
                    fence.claim(Generation(0), Generation(1), &owner).unwrap() == Verdict::Won
                })
            })
            .collect();
        let won = racers.into_iter().map(|racer| racer.join().unwrap());
        assert_eq!(won.filter(|won| *won).count(), 1);
        fs::remove_dir_all(folder).unwrap();
    }
}
