//! Peak memory of each side when a large file is put and fetched.

use super::program::text;
use super::{Bench, MIB};
use crate::child::{Report, Running};
use crate::material;
use crate::outcome::{Bound, Row, Target};
use crate::roles;

const MOST_MIB: f64 = 150.0;

/// The process that puts, the one that serves and the one that fetches into its store, each by itself.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let folder = bench.folder()?;
    let bytes = if bench.quick { 1024 * MIB } else { 4096 * MIB };
    let (file, store, other) = (
        folder.path().join("file"),
        folder.path().join("store"),
        folder.path().join("other"),
    );
    let digest = material::random_file(&file, "memory", bytes)?;
    roles::warren::write_pki(folder.path())?;
    let (pki, here) = (text(folder.path())?, bench.place.here.address.to_string());
    let put = Running::complete(
        &bench.place.here,
        &["warren-put", text(&store)?, text(&file)?],
    )?;
    std::fs::remove_file(&file)?;
    let mut server = Running::start(
        &bench.place.here,
        &["warren-serve", pki, text(&store)?, &here],
    )?;
    let from = server.ready()?.address;
    let get = Running::complete(
        &bench.place.there,
        &["warren-get", pki, text(&other)?, &from, &put.result, "keep"],
    )?;
    let served = server.finish::<Report>()?;
    get.verify(bytes, &digest)?;
    let target = Target {
        must: Some(Bound::AtMost(MOST_MIB)),
        aim: None,
    };
    let row = |side: &str, peak_mib: f64| {
        Row::alone(&format!("memory ({side})"), "MiB peak", &[peak_mib], target)
    };
    Ok(vec![
        row("put", put.peak_mib),
        row("serve", served.peak_mib),
        row("get", get.peak_mib),
    ])
}
