//! The figures over HTTP, for whoever scrapes them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::error::WorkerError;

/// The longest request that is read.
const MOST_REQUEST_BYTES: usize = 8 << 10;
/// Whoever asks must ask at once, and read what it is told.
const PATIENCE: Duration = Duration::from_secs(2);
/// Visitors at a time; others wait. Many: those who say nothing must not keep out those who ask.
const MOST_VISITORS: usize = 512;

/// Serves `/metrics` until the process ends; the address, whose port was chosen where 0 was asked for.
///
/// # Errors
/// [`WorkerError::Configuration`] for an address that this machine does not have, or that somebody else serves.
pub async fn serve(address: SocketAddr) -> Result<SocketAddr, WorkerError> {
    let refused = |e: std::io::Error| {
        WorkerError::Configuration(format!("--metrics {address}: {e}; name a free port of this machine, or 0 for any"))
    };
    let listener = TcpListener::bind(address).await.map_err(refused)?;
    let served = listener.local_addr().map_err(refused)?;
    let visitors = Arc::new(Semaphore::new(MOST_VISITORS));
    tokio::spawn(async move {
        loop {
            let Ok(place) = visitors.clone().acquire_owned().await else { return };
            match listener.accept().await {
                Ok((visitor, _)) => {
                    _ = tokio::spawn(async move {
                        _ = tokio::time::timeout(PATIENCE, answer(visitor)).await;
                        drop(place);
                    })
                }
                // as when there are no more file descriptors
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    });
    Ok(served)
}

async fn answer(mut visitor: TcpStream) -> std::io::Result<()> {
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if request.len() > MOST_REQUEST_BYTES || visitor.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let (status, body) = match request.split(|byte| *byte == b'\r').next() {
        Some(line) if line.starts_with(b"GET /metrics ") || line.starts_with(b"GET / ") => ("200 OK", super::text()),
        _ => ("404 Not Found", "the figures are at /metrics\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: \
         close\r\n\r\n",
        body.len()
    );
    visitor.write_all(head.as_bytes()).await?;
    visitor.write_all(body.as_bytes()).await?;
    visitor.shutdown().await
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn ask(address: SocketAddr, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        // a refused visitor may be cut off while it still writes
        _ = stream.write_all(request).await;
        let mut answer = Vec::new();
        _ = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test]
    async fn figures_are_served_and_nothing_else() {
        super::super::add(super::super::Metric::DuplicateShards, &[], 1.0);
        let address = serve(([127, 0, 0, 1], 0).into()).await.unwrap();
        let answer = ask(address, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.contains("urbancross_duplicate_shards_total"));
        assert!(ask(address, b"GET /etc/passwd HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        assert!(ask(address, b"POST /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 404"));
        // endless and broken requests end by themselves
        ask(address, &vec![b'x'; 4 * MOST_REQUEST_BYTES]).await;
        assert!(ask(address, b"GET /metrics HTTP/1.1\r\n\r\n").await.starts_with("HTTP/1.1 200"));
        // visitors who say nothing keep nobody out
        let mut idle = Vec::new();
        for _ in 0..140 {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let among_idle = ask(address, b"GET /metrics HTTP/1.1\r\n\r\n");
        let answer = tokio::time::timeout(Duration::from_secs(20), among_idle).await.expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"));
        let taken = serve(address).await.unwrap_err();
        assert!(taken.exit_code() == 65 && taken.to_string().contains("--metrics"), "{taken}");
    }
}
