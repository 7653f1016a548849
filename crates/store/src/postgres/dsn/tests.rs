use std::collections::HashMap;

use super::*;

/// Environment of a test: variables and files.
#[derive(Default)]
struct Given {
    variables: HashMap<String, String>,
    files: HashMap<PathBuf, String>,
}

impl Given {
    fn variables(all: &[(&str, &str)]) -> Self {
        let variables = all.iter().map(|(name, value)| ((*name).into(), (*value).into()));
        Self { variables: variables.collect(), files: HashMap::new() }
    }

    fn file(mut self, path: &str, text: &str) -> Self {
        self.files.insert(path.into(), text.into());
        self
    }
}

impl Environment for Given {
    fn variable(&self, name: &str) -> Option<String> {
        self.variables.get(name).cloned()
    }

    fn home(&self) -> Option<PathBuf> {
        Some("/h".into())
    }

    fn user(&self) -> Option<String> {
        Some("runner".into())
    }

    fn read(&self, path: &Path) -> std::io::Result<String> {
        self.files.get(path).cloned().ok_or(std::io::ErrorKind::NotFound.into())
    }
}

fn parse(text: &str) -> ConnectionString {
    ConnectionString::parse(text, &Given::default()).unwrap()
}

fn refused(text: &str) -> String {
    ConnectionString::parse(text, &Given::default()).unwrap_err().to_string()
}

fn password(read: &ConnectionString) -> Option<&str> {
    read.hosts[0].password.as_ref().map(|it| it.as_str())
}

#[test]
fn defaults_are_those_of_lib_pq() {
    let read = parse("");
    assert_eq!(read.to_string(), "localhost:5432/runner");
    assert_eq!(read.user, "runner");
    assert_eq!(read.tls.mode, SslMode::Require);
    assert!(read.tls.roots == Roots::Any && read.tls.identity.is_none());
    assert_eq!(read.session, SessionAttributes::Any);
    assert_eq!(password(&read), None);
}

#[test]
fn pairs_may_be_quoted_escaped_and_spaced() {
    let read = parse("host = db.test  user='it' ");
    assert_eq!((read.user.as_str(), read.hosts[0].name.as_str()), ("it", "db.test"));
    let read = parse(r"user='o\'brien' password = a\ b\\ dbname='' port=6000");
    assert_eq!((read.user.as_str(), password(&read)), ("o'brien", Some("a b\\")));
    assert_eq!((read.dbname.as_deref(), read.hosts[0].port), (None, 6000));
    let read = parse("dbname='my db' host=''\tuser=u");
    assert_eq!((read.dbname.as_deref(), read.hosts[0].name.as_str()), (Some("my db"), "localhost"));
    assert_eq!(parse("database=old").dbname.as_deref(), Some("old"));
}

#[test]
fn urls_say_the_same_as_pairs() {
    let read = parse("postgres://u%40x:p%2Fw@db.test:6000/spire?sslmode=disable&search_path=a,b");
    assert_eq!((read.user.as_str(), password(&read)), ("u@x", Some("p/w")));
    assert_eq!(read.to_string(), "db.test:6000/spire");
    assert_eq!(read.tls.mode, SslMode::Disable);
    assert_eq!(read.options.as_deref(), Some("-c search_path=a,b"));
    let read = parse("postgresql://[::1]:1,b,c:3/?target_session_attrs=read-write");
    assert_eq!(read.to_string(), "::1:1,b:5432,c:3/runner");
    assert_eq!(read.session, SessionAttributes::ReadWrite);
    assert_eq!(parse("postgres://a,b:7/d").to_string(), "a:7,b:7/d");
    let read = parse("postgres:///d?host=/run/postgresql&user=x");
    assert_eq!(read.to_string(), "/run/postgresql/.s.PGSQL.5432/d");
    assert_eq!(read.tls.mode, SslMode::Disable, "no TLS on a Unix socket");
}

#[test]
fn several_hosts_have_a_port_each_or_one_for_all() {
    let read = parse("host=a,b,c port=1,,3 load_balance_hosts=random");
    assert_eq!(read.to_string(), "a:1,b:5432,c:3/runner");
    assert!(read.shuffles);
    let read = parse("host=a,b hostaddr=127.0.0.1,::1 port=7");
    assert_eq!(read.to_string(), "a (127.0.0.1:7),b (::1:7)/runner");
    assert_eq!(parse("hostaddr=127.0.0.1").to_string(), "127.0.0.1:5432/runner");
    assert!(refused("host=a,b port=1,2,3").contains("3 ports for 2 hosts"));
    assert!(refused("host=a,b hostaddr=::1").contains("1 addresses for 2 hosts"));
}

#[test]
fn run_time_parameters_go_to_the_server() {
    let read = parse("options='-c a=1' statement_timeout=5000 search_path='x y' tz=UTC geqo=off");
    let wanted =
        r"-c a=1 -c timezone=UTC -c geqo=off -c search_path=x\ y -c statement_timeout=5000";
    assert_eq!(read.options.as_deref(), Some(wanted));
    assert!(refused("'a b'=1").contains("expected `=`") || refused("a-b=1").contains("a-b"));
}

#[test]
fn the_environment_is_below_the_string_and_a_service_above_it() {
    let around = Given::variables(&[
        ("PGHOST", "env.test"),
        ("PGUSER", "env"),
        ("PGDATABASE", "env"),
        ("PGSERVICE", "prod"),
        ("PGSERVICEFILE", "/etc/services"),
        ("PGCONNECT_TIMEOUT", "7"),
    ])
    .file("/etc/services", "[test]\nhost=no\n# prod\n[ prod ]\ndbname = main\nport=6\n[x]\nport=1");
    let read = ConnectionString::parse("user=me dbname=mine", &around).unwrap();
    assert_eq!((read.to_string().as_str(), read.user.as_str()), ("env.test:6/main", "me"));
    assert_eq!(read.connect_timeout, Some(Duration::from_secs(7)));
    let missing = ConnectionString::parse("service=other", &around).unwrap_err();
    assert!(missing.to_string().contains("/etc/services does not define \"other\""));
    assert!(refused("service=x").contains("/h/.pg_service.conf"));
    let around = Given::variables(&[("PGSSLCRL", "x")]);
    let refused = ConnectionString::parse("", &around).unwrap_err();
    assert!(refused.to_string().contains("PGSSLCRL"), "{refused}");
}

#[test]
fn a_password_file_is_asked_for_each_host() {
    let around = Given::default()
        .file("/h/.pgpass", "#a:*:*:*:no\na:1:*:u:one\nlocalhost:*:d:u:sock\\:et\n*:*:*:other:no")
        .file("/p", "*:*:*:*:all");
    let read = ConnectionString::parse("host=a,b,/run port=1,2,3 user=u dbname=d", &around);
    let read = read.unwrap();
    let found: Vec<_> =
        read.hosts.iter().map(|it| it.password.as_ref().map(|p| p.as_str())).collect();
    assert_eq!(found, [Some("one"), None, Some("sock:et")]);
    assert!(read.has_password() && !read.without_passwords().has_password());
    let read = ConnectionString::parse("passfile=/p", &around).unwrap();
    assert_eq!(password(&read), Some("all"));
    let read = ConnectionString::parse("passfile=/p password=own", &around).unwrap();
    assert_eq!(password(&read), Some("own"));
}

#[test]
fn what_tls_checks_follows_sslmode_and_the_roots_there_are() {
    let with_root = Given::default().file("/h/.postgresql/root.crt", "").file("/r", "");
    let roots = |text: &str| ConnectionString::parse(text, &with_root).unwrap().tls.roots;
    assert!(roots("") == Roots::Pem(Pem::File("/h/.postgresql/root.crt".into())));
    assert!(roots("sslrootcert=/r") == Roots::Pem(Pem::File("/r".into())));
    assert!(roots("sslrootcert=/missing") == Roots::Any);
    assert!(
        roots("sslrootcert=/missing sslmode=verify-ca") == Roots::Pem(Pem::File("/missing".into()))
    );
    let read = parse("sslrootcert=system");
    assert!(read.tls.roots == Roots::System && read.tls.mode == SslMode::VerifyFull);
    assert!(refused("sslrootcert=system sslmode=require").contains("verify-full"));
    assert!(refused("sslnegotiation=direct sslmode=prefer").contains("direct"));
    assert!(parse("sslmode=verify-full").tls.roots == Roots::System);
    let read = parse("sslinline=1 sslcert=C sslkey=K sslrootcert=R");
    assert!(
        read.tls.identity
            == Some((Pem::Text(Zeroizing::new("C".into())), Pem::Text(Zeroizing::new("K".into()))))
    );
    let read = parse("sslcert=/c ssl_min_protocol_version=TLSv1.3 sslsni=0");
    assert!(
        read.tls.identity
            == Some((Pem::File("/c".into()), Pem::File("/h/.postgresql/postgresql.key".into())))
    );
    assert!(read.tls.only_tls13 && !read.tls.sends_name);
}

#[test]
fn wrong_values_are_named_with_what_was_expected() {
    for (text, wanted) in [
        ("data.db", "key=value pairs or a postgres:// URL"),
        ("host=a port", "expected `=` after \"port\""),
        ("password='x", "the quoted value of password has no end"),
        ("user=a\\", "nothing follows"),
        ("port=x", "port: expected a number up to 65535, found \"x\""),
        ("sslmode=strict", "sslmode: found \"strict\", expected one of disable, allow"),
        ("target_session_attrs=rw", "expected one of any, read-write"),
        ("client_encoding=LATIN1", "client_encoding"),
        ("datestyle=German", "datestyle"),
        ("connect_timeout=soon", "connect_timeout: expected seconds"),
        ("hostaddr=db", "hostaddr: expected an IP address"),
        ("krbsrvname=x", "Kerberos"),
        ("sslsni=maybe", "sslsni: expected 0 or 1"),
        ("min_protocol_version=3.2", "3.0"),
        ("postgres://u:p%@h/", "password: `%` must be followed"),
        ("postgres://a:b:c/", "expected host:port"),
    ] {
        let said = refused(text);
        assert!(said.contains(wanted), "{text}: {said}");
    }
    for text in ["password=secret port=x", "postgres://u:secret@h:x/"] {
        assert!(!refused(text).contains("secret"));
    }
    assert!(!format!("{:?}", parse("password=secret")).contains("secret"));
}
