//! Names of users and groups. Where they come from may be far away (LDAP, say) and slow.

use std::{
    collections::HashMap,
    ops::ControlFlow,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use nix::unistd::{Gid, Group, Uid, User};
use signet_base::{FairPool, FairPoolLimits};
use tokio::time::Instant;

/// How long a name counts. It belongs to a number, not to a process.
const FRESH: Duration = Duration::from_secs(10);
/// The most names that are kept.
const MAX_KEPT: usize = 8192;
/// How long one caller's names may take in all. What is not known by then is left out, as what has
/// no name is.
const DEADLINE: Duration = Duration::from_secs(5);
const LIMITS: FairPoolLimits =
    FairPoolLimits { threads: 2, started: 4, waiting: 256, waiting_in_all: 16 * 1024 };

/// What has a number and may have a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kind {
    Group,
    User,
}

type Name = Option<Arc<str>>;

/// Looks names up, on threads of its own, and keeps them for a while.
#[derive(Debug)]
pub(super) struct Names {
    pool: FairPool,
    kept: Arc<Kept>,
}

#[derive(Debug, Default)]
struct Kept(Mutex<HashMap<(Kind, u32), (Name, Instant)>>);

impl Names {
    pub fn new() -> Self {
        Self { pool: FairPool::new("names", LIMITS), kept: Arc::default() }
    }

    /// The names of these, in their order, looked up on behalf of a user.
    pub async fn of(&self, user: u32, wanted: &[(Kind, u32)]) -> Vec<Name> {
        let mut missing = self.kept.missing(wanted);
        if let Some(count) = (!missing.is_empty()).then_some(missing.len()) {
            let kept = Arc::clone(&self.kept);
            let looking = self.pool.run(user.into(), move || match missing.pop() {
                Some((kind, id)) => {
                    kept.keep(kind, id, look_up(kind, id));
                    ControlFlow::Continue(())
                }
                None => ControlFlow::Break(()),
            });
            match tokio::time::timeout(DEADLINE, looking).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(uid = user, count, %error, "Looking names up"),
                Err(_) => tracing::warn!(
                    uid = user,
                    count,
                    "Names of users and groups are not known within {DEADLINE:?}: they are left out"
                ),
            }
        }
        self.kept.get(wanted)
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, HashMap<(Kind, u32), (Name, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Those that are not known, the last first.
    fn missing(&self, wanted: &[(Kind, u32)]) -> Vec<(Kind, u32)> {
        let kept = self.lock();
        let is_fresh = |key| kept.get(key).is_some_and(|(_, at)| at.elapsed() < FRESH);
        wanted.iter().filter(|key| !is_fresh(*key)).rev().copied().collect()
    }

    fn keep(&self, kind: Kind, id: u32, name: Name) {
        let mut kept = self.lock();
        if kept.len() >= MAX_KEPT {
            kept.retain(|_, (_, at)| at.elapsed() < FRESH);
        }
        if kept.len() >= MAX_KEPT {
            kept.clear();
        }
        kept.insert((kind, id), (name, Instant::now()));
    }

    fn get(&self, wanted: &[(Kind, u32)]) -> Vec<Name> {
        let kept = self.lock();
        wanted.iter().map(|key| kept.get(key).and_then(|(name, _)| name.clone())).collect()
    }
}

fn look_up(kind: Kind, id: u32) -> Name {
    let name = match kind {
        Kind::Group => Group::from_gid(Gid::from_raw(id)).ok().flatten().map(|group| group.name),
        Kind::User => User::from_uid(Uid::from_raw(id)).ok().flatten().map(|user| user.name),
    };
    name.map(Arc::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_come_in_the_order_of_the_numbers_and_are_asked_for_once_in_a_while() {
        let names = Names::new();
        let wanted = [(Kind::Group, 0), (Kind::User, 0), (Kind::User, 3_999_999_999)];
        let found = names.of(7, &wanted).await;
        let found: Vec<_> = found.iter().map(Option::as_deref).collect();
        assert_eq!(found, [Some("root"), Some("root"), None]);
        assert!(names.kept.missing(&wanted).is_empty(), "that there is no name is known too");
    }

    #[tokio::test(start_paused = true)]
    async fn a_name_grows_old() {
        let kept = Kept::default();
        kept.keep(Kind::User, 1, Some("a".into()));
        assert!(kept.missing(&[(Kind::User, 1)]).is_empty());
        tokio::time::advance(FRESH).await;
        assert_eq!(kept.missing(&[(Kind::User, 1)]), [(Kind::User, 1)]);
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_names_are_kept_than_may() {
        let kept = Kept::default();
        for id in 0..3 * MAX_KEPT {
            kept.keep(Kind::Group, u32::try_from(id).unwrap(), None);
            assert!(kept.lock().len() <= MAX_KEPT);
        }
    }
}
