//! How fast this machine is now, told by work that stays the same.
//!
//! The CPU that work takes is no property of the work alone: on a machine that others use too, or
//! whose cores are halves of one, it takes twice as much in one hour as in another. A goal of CPU is
//! held against that.

use std::{
    collections::BTreeMap,
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    thread,
    time::{Duration, Instant},
};

use anyhow::Context;
use nix::time::{ClockId, clock_gettime};
use signet_pki::{KeyType, PrivateKey, SignatureAlgorithm, Signer, pop::verify_ecdsa_der};

/// CPU that [`piece`] takes on the two cores that the goals were set on, with nothing else running.
const REFERENCE: Duration = Duration::from_micros(500);
/// How long the work is done.
const DURATION: Duration = Duration::from_millis(200);
/// As many threads as cores on the machine that the goals were set on.
const THREADS: usize = 2;

/// How many times more CPU the same work takes here and now than where the goals were set; never
/// less than 1.
///
/// # Errors
/// When the work cannot be done.
pub fn slowness() -> anyhow::Result<f64> {
    let workers: Vec<_> = (0..THREADS).map(|_| thread::spawn(work)).collect();
    let mut each = Vec::new();
    for worker in workers {
        each.push(worker.join().ok().context("a worker panicked")??);
    }
    let mean = each.iter().sum::<f64>() / THREADS as f64;
    Ok((mean / REFERENCE.as_secs_f64()).max(1.0))
}

/// Seconds of CPU that a piece took.
fn work() -> anyhow::Result<f64> {
    let key = PrivateKey::generate(KeyType::EcP256)?.signer()?;
    let (mut here, mut there) = UnixStream::pair().context("a pair of sockets")?;
    let (begun, cpu, mut pieces) = (Instant::now(), own_cpu()?, 0_u32);
    while begun.elapsed() < DURATION {
        piece(&*key, &mut here, &mut there)?;
        pieces += 1;
    }
    Ok((own_cpu()? - cpu).as_secs_f64() / f64::from(pieces))
}

/// A little of what servers do: signatures, small allocations, system calls.
fn piece(key: &dyn Signer, here: &mut UnixStream, there: &mut UnixStream) -> anyhow::Result<()> {
    let message = [7_u8; 512];
    for _ in 0..3 {
        let signature = key.sign(SignatureAlgorithm::EcdsaP256Sha256, &message)?;
        verify_ecdsa_der(key.public_key(), &message, &signature).ok().context("a signature")?;
    }
    let map: BTreeMap<String, Vec<u8>> = (0..200_u32)
        .map(|at| (format!("{:08x}", at.wrapping_mul(2_654_435_761)), vec![0; 100]))
        .collect();
    let mut buffer = [0; 512];
    for value in map.values().take(50) {
        here.write_all(value)?;
        there.read_exact(buffer.get_mut(..value.len()).context("a buffer")?)?;
    }
    Ok(())
}

fn own_cpu() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).context("reading a CPU clock")?.into())
}
