// What Rust programs do with files and time: writes a tree of files, reads it again in many ways, and
// prints only what does not depend on when and where it runs. Built by tests/real/test_wasi.py.
use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

fn list(folder: &Path, depth: usize) -> io::Result<u64> {
    let mut entries: Vec<_> = fs::read_dir(folder)?.collect::<Result<_, _>>()?;
    entries.sort_by_key(|entry| entry.file_name());
    let mut total = 0;
    for entry in entries {
        let kind = entry.file_type()?;
        println!("{}{:?} {}", "  ".repeat(depth), entry.file_name(), kind.is_dir());
        total += if kind.is_dir() { list(&entry.path(), depth + 1)? } else { entry.metadata()?.len() };
    }
    Ok(total)
}

fn main() -> io::Result<()> {
    let root = std::env::args().nth(1).expect("a folder");
    let root = Path::new(&root);
    let begun = Instant::now();
    let mut counts: HashMap<String, usize> = HashMap::new();
    for number in 0..16 {
        let folder = root.join(format!("d{}", number % 3)).join("inner");
        fs::create_dir_all(&folder)?;
        let mut out = BufWriter::new(File::create(folder.join(format!("f{number:02}")))?);
        for line in 0..400 + number {
            writeln!(out, "line {} of {number}", line % 7)?;
        }
        out.flush()?;
    }
    fs::rename(root.join("d0"), root.join("moved"))?;
    fs::copy(root.join("moved/inner/f00"), root.join("copy"))?;
    fs::hard_link(root.join("copy"), root.join("hard"))?;
    println!("{:?}", File::open(root.join("none")).unwrap_err().kind());
    println!("{:?}", fs::create_dir(root.join("moved")).unwrap_err().kind());
    println!("{}", list(root, 0)?);
    for entry in fs::read_dir(root.join("moved/inner"))? {
        for line in BufReader::new(File::open(entry?.path())?).lines() {
            *counts.entry(line?).or_default() += 1;
        }
        std::thread::sleep(Duration::from_millis(3));
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort();
    println!("{} {:?}", counts.len(), counts.last());
    let mut log = OpenOptions::new().read(true).append(true).create(true).open(root.join("log"))?;
    for number in 0..50u64 {
        writeln!(log, "{number} {}", number * number)?;
    }
    let mut rest = String::new();
    log.seek(SeekFrom::End(-20))?;
    log.read_to_string(&mut rest)?;
    log.set_len(100)?;
    log.set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000))?;
    println!("{rest:?} {}", fs::metadata(root.join("log"))?.len());
    fs::remove_dir_all(root.join("d1"))?;
    assert!(begun.elapsed() >= Duration::from_millis(15));
    std::process::exit(5);
}
