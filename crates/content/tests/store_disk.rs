//! A full disk and a read-only one, each a small tmpfs in a mount namespace of the test's own thread.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_support;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change, mount_remount};
use rustix::thread::UnshareFlags;
use store_support::{NOW, key, noise, open, put, read, titled};
use warren_content::store::{OpenError, PutError, StoreError};
use warren_content::{Store, StoreOptions};
use warren_telemetry::Metrics;

/// Runs `test` on a thread that alone sees a tmpfs of `size` mounted on a temporary folder. Threads it starts see it too.
fn on_tmpfs(name: &'static str, size: &'static str, test: impl FnOnce(PathBuf) + Send + 'static) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().to_owned();
    let ran = std::thread::spawn(move || match mount_tmpfs(&path, size) {
        Ok(()) => test(path),
        Err(error) => warren_lab::skip(name, format!("cannot mount a tmpfs (needs root): {error}")),
    });
    if let Err(panic) = ran.join() {
        std::panic::resume_unwind(panic);
    }
}

fn mount_tmpfs(path: &Path, size: &str) -> rustix::io::Result<()> {
    // SAFETY: only this thread's view of mounts changes, it shares no file descriptor table by this flag.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS)? };
    mount_change(
        "/",
        MountPropagationFlags::PRIVATE | MountPropagationFlags::REC,
    )?;
    let options = std::ffi::CString::new(format!("size={size}")).unwrap();
    mount(
        "tmpfs",
        path,
        "tmpfs",
        MountFlags::empty(),
        options.as_c_str(),
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .unwrap()
}

#[test]
fn given_a_full_disk_when_put_then_it_is_refused_clearly_and_reads_and_removals_go_on() {
    let name = "given_a_full_disk_when_put_then_it_is_refused_clearly_and_reads_and_removals_go_on";
    on_tmpfs(name, "64m", |path| {
        runtime().block_on(async {
            let metrics = Metrics::new();
            let store = Store::open(&path, StoreOptions::default(), &metrics).unwrap();
            let mut ids = Vec::new();
            // Large documents until none fits, then small ones until none fits.
            for length in [3_000_000, 3_000] {
                let error = loop {
                    let content = noise(&format!("{length} {}", ids.len()), length);
                    match store.put(&content[..], titled("d"), &key()).await {
                        Ok(receipt) => ids.push((receipt.document, content)),
                        Err(error) => break error,
                    }
                };
                assert!(
                    matches!(error, PutError::Store(StoreError::NoSpace)),
                    "{error}"
                );
                assert!(error.to_string().contains("no space left"), "{error}");
            }
            assert!(ids.len() > 10, "{}", ids.len());
            assert!(
                !metrics
                    .encode()
                    .contains("warren_store_io_errors_total 0\n")
            );
            for (id, content) in &ids {
                assert_eq!(&read(&store, *id).unwrap(), content);
            }

            let (removed, content) = ids.remove(0);
            assert!(store.remove(removed).await.unwrap());
            store.gc(NOW).await.unwrap();
            assert_eq!(
                put(&store, &content[..2_000_000]).await,
                put(&store, &content[..2_000_000]).await
            );
            drop(store);

            let store = open(&path);
            for (id, content) in &ids {
                assert_eq!(&read(&store, *id).unwrap(), content);
            }
            let report = store.verify(|_| ControlFlow::Continue(())).unwrap();
            assert!(report.corrupt.is_empty() && report.missing.is_empty());
        });
    });
}

#[test]
fn given_a_disk_filled_by_others_when_put_then_nothing_acknowledged_is_lost() {
    let name = "given_a_disk_filled_by_others_when_put_then_nothing_acknowledged_is_lost";
    on_tmpfs(name, "32m", |path| {
        runtime().block_on(async {
            let folder = path.join("store");
            let store = open(&folder);
            let content = noise("kept", 1_000_000);
            let id = put(&store, &content).await;
            // To the last page: not even the reserve is left.
            let filler = path.join("filler");
            let _ = std::fs::write(&filler, vec![1; 64 << 20]);
            for n in 0..20_u8 {
                let error = store
                    .put(&[n; 9_000][..], titled("x"), &key())
                    .await
                    .unwrap_err();
                assert!(
                    matches!(error, PutError::Store(StoreError::NoSpace)),
                    "{error}"
                );
                assert_eq!(read(&store, id).unwrap(), content);
            }
            std::fs::remove_file(&filler).unwrap();
            let more = noise("more", 500_000);
            let second = put(&store, &more).await;
            drop(store);
            let store = open(&folder);
            assert_eq!(read(&store, id).unwrap(), content);
            assert_eq!(read(&store, second).unwrap(), more);
            assert_eq!(store.usage().unwrap().documents, 2);
        });
    });
}

#[test]
fn given_a_read_only_disk_when_opened_then_reads_work_and_writes_are_refused_clearly() {
    let name = "given_a_read_only_disk_when_opened_then_reads_work_and_writes_are_refused_clearly";
    on_tmpfs(name, "64m", |path| {
        runtime().block_on(async {
            let content = noise("kept", 1_000_000);
            let id = {
                let store = open(&path);
                put(&store, &content).await
            };
            mount_remount(&path, MountFlags::RDONLY, "").unwrap();
            let store = open(&path);
            assert!(store.is_read_only());
            assert_eq!(read(&store, id).unwrap(), content);
            assert_eq!(store.documents(None, 10).unwrap().documents.len(), 1);
            let error = store.put(&b"x"[..], titled("x"), &key()).await.unwrap_err();
            assert!(
                matches!(error, PutError::Store(StoreError::ReadOnly)),
                "{error}"
            );
            assert!(matches!(store.remove(id).await, Err(StoreError::ReadOnly)));
            assert!(matches!(store.gc(NOW).await, Err(StoreError::ReadOnly)));
            let error = Store::open(&path, StoreOptions::default(), &Metrics::new()).unwrap_err();
            assert!(matches!(error, OpenError::Locked { .. }), "{error}");
        });
    });
}

#[test]
fn given_an_empty_read_only_disk_when_opened_then_it_says_so() {
    on_tmpfs(
        "given_an_empty_read_only_disk_when_opened_then_it_says_so",
        "8m",
        |path| {
            mount_remount(&path, MountFlags::RDONLY, "").unwrap();
            let error = Store::open(&path, StoreOptions::default(), &Metrics::new()).unwrap_err();
            assert!(matches!(error, OpenError::ReadOnly { .. }), "{error}");
        },
    );
}
