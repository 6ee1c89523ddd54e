//! Dialling: QUIC first, TCP beside it when QUIC does not answer soon.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_identity::PeerId;

use crate::core::dials::{Paths, Target};
use crate::driver::Input;
use crate::link::{Proven, REFUSED, run_quic, run_tcp};
use crate::metrics::Reason;
use crate::shell::{HANDSHAKE_TIMEOUT, Shell, prepare, tls_reason};
use crate::tls::{quic_client, tcp_client};

/// How long QUIC has before TCP is tried beside it: two round trips on most paths.
const HEAD_START: Duration = Duration::from_millis(300);

/// Dials a target, runs the links that come of it in tasks of their own, and tells the driver when it is over.
pub(crate) async fn dial(shell: Arc<Shell>, target: Target) {
    let over_quic = async {
        match timeout(
            HANDSHAKE_TIMEOUT,
            quic(&shell, target.address, target.expected),
        )
        .await
        {
            Ok(Ok((quic, proven))) => {
                let task = run_quic(Arc::clone(&shell), quic, proven, Some(target));
                shell.spawn(task);
                Ok(())
            }
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err("timeout"),
        }
    };
    let over_tcp = async {
        match timeout(
            HANDSHAKE_TIMEOUT,
            tcp(&shell, target.address, target.expected),
        )
        .await
        {
            Ok(Ok((stream, proven))) => {
                let remote = target.address;
                let task = run_tcp(Arc::clone(&shell), stream, remote, proven, Some(target));
                shell.spawn(task);
                Ok(())
            }
            Ok(Err(reason)) => Err(reason),
            Err(_) => Err("timeout"),
        }
    };
    let outcome = match target.paths {
        Paths::QuicOnly => over_quic.await,
        Paths::Both => both(over_quic, over_tcp).await,
    };
    if let Err(reason) = outcome {
        tracing::debug!(address = %target.address, reason, "cannot open a gossip link");
    }
    let ended = Input::Dialled {
        target,
        has_link: outcome.is_ok(),
    };
    // The driver may have stopped.
    let _ = shell.inputs.send(ended).await;
}

/// QUIC alone if it is quick; TCP beside it if it is not. When TCP wins, QUIC may still come.
async fn both(
    over_quic: impl Future<Output = Result<(), Reason>>,
    over_tcp: impl Future<Output = Result<(), Reason>>,
) -> Result<(), Reason> {
    tokio::pin!(over_quic);
    let refused = tokio::select! {
        outcome = &mut over_quic => match outcome {
            Ok(()) => return Ok(()),
            Err(_) => true,
        },
        () = sleep(HEAD_START) => false,
    };
    if refused {
        return over_tcp.await;
    }
    tokio::pin!(over_tcp);
    tokio::select! {
        outcome = &mut over_quic => match outcome {
            Ok(()) => Ok(()),
            Err(_) => over_tcp.await,
        },
        outcome = &mut over_tcp => match outcome {
            // The loser of the two decides nothing any more.
            Ok(()) => { let _ = over_quic.await; Ok(()) }
            Err(_) => over_quic.await,
        },
    }
}

async fn quic(
    shell: &Shell,
    address: SocketAddr,
    expected: Option<PeerId>,
) -> Result<(quinn::Connection, Proven), Reason> {
    let config = quic_client(&shell.trust, expected).map_err(|_| "config")?;
    let name = address.ip().to_string();
    let connecting = shell.endpoint.connect_with(config, address, &name);
    let connecting = connecting.map_err(|_| "unreachable")?;
    let quic = connecting.await.map_err(|_| "handshake")?;
    let proven = shell
        .prove_quic(&quic)
        .inspect_err(|_| quic.close(REFUSED, b""))?;
    Ok((quic, proven))
}

async fn tcp(
    shell: &Shell,
    address: SocketAddr,
    expected: Option<PeerId>,
) -> Result<(TlsStream<TcpStream>, Proven), Reason> {
    let config = tcp_client(&shell.trust, expected).map_err(|_| "config")?;
    let stream = TcpStream::connect(address)
        .await
        .map_err(|_| "unreachable")?;
    prepare(&stream);
    let name = address.ip().into();
    let stream = TlsConnector::from(config).connect(name, stream).await;
    let stream = stream.map_err(|error| tls_reason(&error))?;
    let proven = shell.prove_tls(stream.get_ref().1)?;
    Ok((stream, proven))
}
