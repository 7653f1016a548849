//! IDs of new registration entries.

use std::time::Duration;

use signet_pki::random::{self, RandomError};

/// The first 24 bits: all set.
const PREFIX: u64 = 0xff_ffff;

/// An ID for an entry that is created `since_epoch` after 1970: a UUID of version 8 (RFC 9562,
/// section 5.8), of 24 bits that are set, 48 bits of milliseconds and 50 random bits.
///
/// It begins with the time, so that new entries are neighbours in the store's index of IDs, which
/// spares half of what a batch writes. And agents, SPIRE's and ours, list a workload's identities
/// in the order of entry IDs, and the first is its default: it must be the oldest one, also where
/// older entries have the IDs that another program gave them. SPIRE's are random, and all but one
/// in 16 million come before `ffffff`; so do the UUIDs of version 7 that version 0.1 gave.
///
/// # Errors
/// [`RandomError`] when there is no randomness.
pub fn fresh(since_epoch: Duration) -> Result<String, RandomError> {
    let millis = u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX) & 0xffff_ffff_ffff;
    let random = u64::from_be_bytes(random::bytes::<8>()?);
    let high = (PREFIX << 40) | ((millis >> 24) << 16) | ((millis >> 12) & 0xfff);
    let low = ((millis & 0xfff) << 50) | (random & 0x3_ffff_ffff_ffff);
    let mut bytes = [0; 16];
    let (first, second) = bytes.split_at_mut(8);
    first.copy_from_slice(&high.to_be_bytes());
    second.copy_from_slice(&low.to_be_bytes());
    // Sets the version and the variant in the bits that were left out.
    Ok(uuid::Builder::from_custom_bytes(bytes).into_uuid().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_in_the_order_of_creation_and_come_after_those_of_others() {
        let first_of_2026 = 1_767_225_600_000;
        let mut ids = Vec::new();
        for step in [0, 1, 2, 4_095, 4_096, 1 << 24, 1 << 25, 1 << 38] {
            ids.push(fresh(Duration::from_millis(first_of_2026 + step)).unwrap());
        }
        assert!(ids.is_sorted(), "{ids:?}");
        // Random ones of SPIRE, and those of version 0.1 in thousands of years.
        for older in
            ["fffffe00-0000-4000-8000-000000000000", "ffffff00-0000-7000-8000-000000000000"]
        {
            assert!(ids[0].as_str() > older, "{}", ids[0]);
        }
        let now = Duration::from_millis(first_of_2026);
        assert_ne!(fresh(now).unwrap(), fresh(now).unwrap());
        let parsed: uuid::Uuid = ids[0].parse().unwrap();
        assert_eq!(parsed.get_version_num(), 8);
        assert_eq!(parsed.get_variant(), uuid::Variant::RFC4122);
    }
}
