//! Connections: how many, how long, and how they end.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// What connections may take.
#[derive(Debug, Clone, Copy)]
pub struct ServerLimits {
    /// Connections at once; others wait to be accepted.
    pub connections: usize,
    /// How long a client may take for the head of a request, and be silent between two.
    pub head: Duration,
    /// How long answers may go on after a stop.
    pub farewell: Duration,
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self { connections: 512, head: Duration::from_secs(20), farewell: Duration::from_secs(5) }
    }
}

/// Most bytes of a request's head.
const HEAD_BYTES: usize = 32 << 10;

/// Answers requests until `stop`. Then no connection is accepted any more, and those that are open may end their answer.
pub async fn serve(listener: TcpListener, site: Router, limits: ServerLimits, stop: impl Future<Output = ()>) {
    let graceful = GracefulShutdown::new();
    let room = Arc::new(Semaphore::new(limits.connections.max(1)));
    let mut stop = std::pin::pin!(stop);
    let mut open = tokio::task::JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = &mut stop => break,
            accepted = async {
                let place = room.clone().acquire_owned().await;
                (place, listener.accept().await)
            } => accepted,
        };
        while open.try_join_next().is_some() {}
        let (Ok(place), Ok((stream, _))) = accepted else {
            // no more files may be open, say: others have to close theirs first
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(site.clone());
        let mut builder = http1::Builder::new();
        let builder = builder.timer(TokioTimer::new()).header_read_timeout(limits.head).max_buf_size(HEAD_BYTES);
        let connection = graceful.watch(builder.serve_connection(TokioIo::new(stream), service));
        open.spawn(async move {
            // a client that has gone, or that does not speak HTTP
            if let Err(error) = connection.await {
                tracing::debug!(%error, "a connection ended");
            }
            drop(place);
        });
    }
    drop(listener);
    if tokio::time::timeout(limits.farewell, graceful.shutdown()).await.is_err() {
        tracing::debug!("answers that went on were cut off");
    }
    open.shutdown().await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    async fn started(
        limits: ServerLimits,
    ) -> (std::net::SocketAddr, tokio::sync::oneshot::Sender<()>, tokio::task::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = || async {
            tokio::time::sleep(Duration::from_millis(200)).await;
            "done"
        };
        let site = Router::new().route("/slow", get(slow));
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let server = tokio::spawn(serve(listener, site, limits, async move {
            let _ = stopped.await;
        }));
        (address, stop, server)
    }

    #[tokio::test]
    async fn an_answer_that_has_begun_is_finished_after_a_stop() {
        let (address, stop, server) = started(ServerLimits::default()).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /slow HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        stop.send(()).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("done"), "{answer}");
        server.await.unwrap();
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[tokio::test]
    async fn a_client_that_says_nothing_is_left() {
        let limits = ServerLimits { head: Duration::from_millis(100), ..ServerLimits::default() };
        let (address, _stop, _server) = started(limits).await;
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /slow HT").await.unwrap();
        let mut answer = Vec::new();
        let ended = tokio::time::timeout(Duration::from_secs(5), client.read_to_end(&mut answer)).await;
        assert!(ended.is_ok(), "the connection is still open");
    }
}
