//! Tokens that were used.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, PoisonError},
};

use signet_time::UnixTime;

use crate::reason::{Denial, Reason};

/// The most tokens that are remembered. When there are more that have not expired, new ones are
/// refused: forgetting one would let it be used again.
const MAX_REMEMBERED: usize = 1 << 20;
/// How much longer than its life a token is remembered, seconds: clocks differ.
const MARGIN: i64 = 120;

/// Remembers tokens until they have expired.
#[derive(Default)]
pub struct Replays(Mutex<Seen>);

#[derive(Default)]
struct Seen {
    uses: HashMap<String, (u32, UnixTime)>,
    swept: UnixTime,
}

impl Replays {
    /// Takes one use of the token `id`, which expires at `expires`, of `max_uses`.
    ///
    /// # Errors
    /// [`Denial`] when there is none left.
    pub fn take(
        &self,
        id: String,
        expires: UnixTime,
        now: UnixTime,
        max_uses: u32,
    ) -> Result<(), Denial> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if now >= seen.swept + 10 || seen.uses.len() >= MAX_REMEMBERED {
            seen.swept = now;
            seen.uses.retain(|_, (_, until)| *until >= now);
        }
        let full = seen.uses.len() >= MAX_REMEMBERED;
        if full && !seen.uses.contains_key(&id) {
            let text = "too many tokens are in use to tell which were used before";
            return Err(Denial::new(Reason::Busy, text));
        }
        let (uses, _) = seen.uses.entry(id).or_insert((0, expires + MARGIN));
        if *uses >= max_uses {
            return Err(Denial::new(Reason::Replayed, "the token was used before"));
        }
        *uses += 1;
        Ok(())
    }
}

impl fmt::Debug for Replays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        write!(f, "Replays({})", seen.uses.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_remembered_until_it_has_expired() {
        let replays = Replays::default();
        let take =
            |id: &str, now| replays.take(id.to_owned(), UnixTime::from_seconds(1_000), now, 1);
        take("a", UnixTime::from_seconds(900)).unwrap();
        assert_eq!(take("a", UnixTime::from_seconds(950)).unwrap_err().reason, Reason::Replayed);
        take("b", UnixTime::from_seconds(950)).unwrap();
        assert_eq!(
            take("a", UnixTime::from_seconds(1_000 + MARGIN)).unwrap_err().reason,
            Reason::Replayed
        );
        take("a", UnixTime::from_seconds(1_001 + MARGIN + 10)).unwrap();
        replays
            .take("c".to_owned(), UnixTime::from_seconds(1_000), UnixTime::from_seconds(900), 2)
            .unwrap();
        replays
            .take("c".to_owned(), UnixTime::from_seconds(1_000), UnixTime::from_seconds(900), 2)
            .unwrap();
        assert!(
            replays
                .take("c".to_owned(), UnixTime::from_seconds(1_000), UnixTime::from_seconds(900), 2)
                .is_err()
        );
    }
}
