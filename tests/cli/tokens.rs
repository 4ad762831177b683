//! A registry with a token server: who may do what, and what people are told who may not.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::made::{Made, store_image};
use super::support::{Need, Registry, Setup, Store, require, succeed, temp_dir};

/// A token server that knows `me` by the password `secret`, lets everybody read `public/...` and
/// nobody write `closed/...`.
pub struct Tokens {
    address: String,
    directory: tempfile::TempDir,
}

impl Tokens {
    pub fn start() -> Tokens {
        let directory = temp_dir();
        let mut openssl = Command::new("openssl");
        openssl.args("req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=tokens".split(' '));
        openssl.args(["-keyout", "key.pem", "-out", "cert.pem"]);
        succeed(openssl.current_dir(directory.path()));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let place = directory.path().to_owned();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                answer(&stream.unwrap(), &place);
            }
        });
        Tokens { address, directory }
    }

    /// What a registry that trusts it has in its configuration.
    pub fn config(&self) -> String {
        let (address, place) = (&self.address, self.directory.path().display());
        format!(
            "auth:\n  token: {{realm: \"http://{address}/token\", service: lab, issuer: lab, \
             rootcertbundle: {place}/cert.pem}}\n"
        )
    }
}

fn answer(mut stream: &TcpStream, place: &Path) {
    let mut lines = BufReader::new(stream).lines().map(Result::unwrap);
    let target = lines.next().unwrap();
    let head: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
    let header = head.iter().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("authorization").then_some(value)
    });
    let known = match header {
        None => false,
        Some("Basic bWU6c2VjcmV0") => true,
        Some(_) => {
            write!(
                stream,
                "HTTP/1.1 401 No\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"
            )
            .unwrap();
            return;
        }
    };
    let query = target.split(['?', ' ']).nth(2).unwrap();
    let scopes = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("scope="));
    let access: Vec<Value> = scopes.map(|scope| granted(scope, known)).collect();
    let body = json!({"token": token(&access, place)}).to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
}

fn granted(scope: &str, known: bool) -> Value {
    let scope = scope
        .replace("%3A", ":")
        .replace("%2F", "/")
        .replace("%2C", ",");
    let parts: Vec<&str> = scope.split(':').collect();
    let may = |action: &&str| match *action {
        "push" => known && !parts[1].starts_with("closed/"),
        _ => known || parts[1].starts_with("public/"),
    };
    let actions: Vec<&str> = parts[2].split(',').filter(may).collect();
    json!({"type": parts[0], "name": parts[1], "actions": actions})
}

/// A signed token that allows this.
fn token(access: &[Value], place: &Path) -> String {
    let pem = fs::read_to_string(place.join("cert.pem")).unwrap();
    let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let header = json!({"typ": "JWT", "alg": "RS256", "x5c": [certificate]});
    let claims = json!({
        "iss": "lab", "sub": "me", "aud": "lab", "jti": now.to_string(), "access": access,
        "iat": now - 10, "nbf": now - 10, "exp": now + 300,
    });
    let encode = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
    let signed = format!("{}.{}", encode(&header), encode(&claims));
    let mut openssl = Command::new("openssl");
    openssl
        .args(["dgst", "-sha256", "-sign"])
        .arg(place.join("key.pem"));
    let mut child = openssl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(signed.as_bytes()).unwrap();
    drop(stdin);
    let signature = child.wait_with_output().unwrap().stdout;
    format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
}

#[test]
fn who_may_what() {
    let needs = ["docker-registry", "openssl"].map(Need::Program);
    if !require(&needs) {
        return;
    }
    let tokens = Tokens::start();
    let registry = Registry::set_up(&Setup {
        more: &tokens.config(),
        ..Setup::default()
    });
    let store = Store::new();
    let host = registry.address();
    let file = |name: &str| -> PathBuf { store.root().with_file_name(name) };
    let (mine, none) = (file("mine.json"), file("none.json"));
    let [mine, none] = [&mine, &none].map(|path| path.to_str().unwrap());
    let login = |password: &str| {
        let mut login = store.command([
            "login",
            "--authfile",
            mine,
            "-u",
            "me",
            "-p",
            password,
            host,
        ]);
        login.output().unwrap().status.code()
    };
    assert_eq!(login("wrong"), Some(1));
    assert_eq!(login("secret"), Some(0));
    let kept: Value = serde_json::from_slice(&fs::read(mine).unwrap()).unwrap();
    assert_eq!(
        kept["auths"][host]["auth"],
        BASE64_STANDARD.encode("me:secret")
    );

    let name = registry.reference("team/app:1");
    store_image(&store, &name, &Made::default());
    let public = registry.reference("public/app:1");
    let closed = registry.reference("closed/app:1");
    store.run(["tag", &name, &public, &closed]);
    store.run(["push", "-q", "--authfile", mine, &name]);
    // The layer is taken over from the other repository, for which the token must be good too.
    let told = store.stdout(["push", "--authfile", mine, &public]);
    assert!(told.contains("Mounted from team/app"), "{told}");

    let said = store.fails(1, ["push", "--authfile", mine, &closed]);
    let why =
        "denies access: the credentials of \"me\" do not allow repository:closed/app:pull,push";
    assert!(said.contains(why), "{said}");
    let said = store.fails(1, ["push", "--authfile", none, &public]);
    assert!(said.contains("no credentials for it were found"), "{said}");
    store.run(["pull", "-q", "--authfile", none, &public]);
    let said = store.fails(1, ["pull", "-q", "--authfile", none, &name]);
    assert!(
        said.contains(&format!("hint: plyfs login {host}")),
        "{said}"
    );
    assert_eq!(store.stdout(["tags", "--authfile", mine, &name]), "1\n");
}
