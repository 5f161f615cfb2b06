//! Requests that set a server up, one at a time over a connection that is kept alive.
//!
//! Absent: load (`tests/testkit/examples/load.rs` makes it). Next: `gateway.rs`, which sets one up.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

/// Longest wait for an answer: longer than a gateway works on any request.
const PATIENCE: Duration = Duration::from_secs(200);

/// A connection to a server on loopback.
pub struct Connection {
    stream: BufReader<TcpStream>,
    address: String,
}

impl Connection {
    /// Connects.
    pub fn open(address: &str) -> Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream), address: address.to_owned() })
    }

    /// Sends a request and reads its answer: status and body.
    pub fn send(&mut self, method: &str, path: &str, token: &str, body: &[u8]) -> Result<(u16, String)> {
        let address = &self.address;
        let authorization = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let mut request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {address}\r\n{authorization}Content-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(body);
        self.stream.get_mut().write_all(&request)?;
        let status_line = self.line()?;
        let status = status_line.get(9..12).context("an answer without a status")?.parse()?;
        let (mut length, mut chunked) = (0, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            chunked |= line.starts_with("transfer-encoding:") && line.contains("chunked");
        }
        let mut answer = Vec::new();
        if chunked {
            loop {
                let size = usize::from_str_radix(&self.line()?, 16)?;
                self.bytes(size, &mut answer)?;
                self.line()?;
                if size == 0 {
                    break;
                }
            }
        } else {
            self.bytes(length, &mut answer)?;
        }
        Ok((status, String::from_utf8_lossy(&answer).into_owned()))
    }

    /// POST of JSON that has to succeed, and what it answers.
    pub fn call(&mut self, path: &str, token: &str, body: &Value) -> Result<Value> {
        self.post(path, token, body.to_string().as_bytes())
    }

    /// POST of bytes that has to succeed, and what it answers.
    pub fn post(&mut self, path: &str, token: &str, body: &[u8]) -> Result<Value> {
        let (status, answer) = self.send("POST", path, token, body)?;
        if !(200..300).contains(&status) {
            bail!("`{path}` answered {status}: {answer}");
        }
        Ok(serde_json::from_str(&answer)?)
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            bail!("the server at {} closed the connection", self.address);
        }
        Ok(line.trim_end().to_owned())
    }

    fn bytes(&mut self, count: usize, into: &mut Vec<u8>) -> Result<()> {
        let at = into.len();
        into.resize(at + count, 0);
        Ok(self.stream.read_exact(into.get_mut(at..).unwrap_or_default())?)
    }
}

/// GET over a connection of its own: status and body.
pub fn get(address: &str, path: &str) -> Result<(u16, String)> {
    Connection::open(address)?.send("GET", path, "", &[])
}

/// A member that has to be text.
pub fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).context("a text was expected")
}

/// A loopback address whose port was free a moment ago.
pub fn free_address() -> Result<String> {
    Ok(std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    #[test]
    fn answers_are_read_whole_however_their_length_is_told_and_the_connection_is_kept() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            for answer in [
                "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\n{\"a\": 1}",
                "HTTP/1.1 201 Created\r\nTransfer-Encoding: chunked\r\n\r\n4\r\n{\"a\"\r\n4\r\n: 2}\r\n0\r\n\r\n",
                "HTTP/1.1 422 No\r\nContent-Length: 2\r\n\r\n{}",
            ] {
                let mut line = String::new();
                while line != "\r\n" {
                    line.clear();
                    stream.read_line(&mut line).unwrap();
                }
                stream.read_exact(&mut [0; 4]).unwrap();
                stream.get_mut().write_all(answer.as_bytes()).unwrap();
            }
        });
        let mut connection = Connection::open(&address).unwrap();
        assert_eq!(connection.post("/", "", b"null").unwrap(), serde_json::json!({ "a": 1 }));
        assert_eq!(connection.post("/", "token", b"null").unwrap(), serde_json::json!({ "a": 2 }));
        let refused = connection.post("/", "", b"null").unwrap_err().to_string();
        assert!(refused.contains("422"), "{refused}");
        server.join().unwrap();
    }
}
