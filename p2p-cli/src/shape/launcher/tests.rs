use super::{BasePort, Hand, LaunchError, Rank, Rendezvous, Variables, counts, first_host, rank};

const BASE: BasePort = BasePort { port: 20000, is_chosen: false };

fn read(pairs: &[(&str, &str)]) -> Result<Option<Rank>, LaunchError> {
    rank(Hand::default(), &variables(pairs), BASE)
}

fn variables(pairs: &[(&str, &str)]) -> Variables {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn place(rank: u32, local_rank: u32, node: Option<u32>, host: &str, port: u16) -> Rank {
    let rendezvous = Rendezvous { host: host.to_owned(), port };
    Rank { rank, world: 16, local_rank, local_world: 8, node, rendezvous }
}

fn with<'a>(base: &[(&'a str, &'a str)], more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    let kept = base.iter().filter(|(name, _)| more.iter().all(|(other, _)| other != name));
    kept.chain(more).copied().collect()
}

const TORCHRUN: [(&str, &str); 7] = [
    ("RANK", "11"),
    ("WORLD_SIZE", "16"),
    ("LOCAL_RANK", "3"),
    ("LOCAL_WORLD_SIZE", "8"),
    ("GROUP_RANK", "1"),
    ("MASTER_ADDR", "host0"),
    ("MASTER_PORT", "29500"),
];
const SRUN: [(&str, &str); 7] = [
    ("SLURM_PROCID", "11"),
    ("SLURM_NTASKS", "16"),
    ("SLURM_LOCALID", "3"),
    ("SLURM_NODEID", "1"),
    ("SLURM_STEP_TASKS_PER_NODE", "8(x2)"),
    ("SLURM_STEP_NODELIST", "gpu[03-04]"),
    ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.9"),
];
const OPEN_MPI: [(&str, &str); 5] = [
    ("OMPI_COMM_WORLD_RANK", "11"),
    ("OMPI_COMM_WORLD_SIZE", "16"),
    ("OMPI_COMM_WORLD_LOCAL_RANK", "3"),
    ("OMPI_COMM_WORLD_LOCAL_SIZE", "8"),
    ("MASTER_ADDR", "host0"),
];
const HYDRA: [(&str, &str); 5] = [
    ("PMI_RANK", "11"),
    ("PMI_SIZE", "16"),
    ("MPI_LOCALRANKID", "3"),
    ("MPI_LOCALNRANKS", "8"),
    ("MASTER_ADDR", "host0"),
];

#[test]
fn each_launcher_is_understood() {
    assert_eq!(read(&TORCHRUN), Ok(Some(place(11, 3, Some(1), "host0", 29500))));
    assert_eq!(read(&SRUN), Ok(Some(place(11, 3, Some(1), "gpu03", 20000))));
    assert_eq!(read(&OPEN_MPI), Ok(Some(place(11, 3, None, "host0", 20000))));
    assert_eq!(read(&HYDRA), Ok(Some(place(11, 3, None, "host0", 20000))));
    assert_eq!(read(&[]), Ok(None));
    assert_eq!(read(&[("RANK", ""), ("SLURM_JOB_ID", "7")]), Ok(None), "an empty value is none");
}

#[test]
fn torchruns_own_store_has_the_port_and_the_next_one_is_taken() {
    let agent = with(&TORCHRUN, &[("TORCHELASTIC_USE_AGENT_STORE", "True")]);
    assert_eq!(read(&agent), Ok(Some(place(11, 3, Some(1), "host0", 29501))));
    let chosen = BasePort { port: 20100, is_chosen: true };
    let found = rank(Hand::default(), &variables(&agent), chosen).expect("good").expect("one");
    assert_eq!(found.rendezvous.port, 20100, "a port that the user chose goes before");
}

#[test]
fn a_launcher_inside_of_another_has_the_word() {
    // One task of srun per host, which starts torchrun.
    let outer = with(&SRUN, &[("SLURM_PROCID", "1"), ("SLURM_NTASKS", "2"), ("SLURM_LOCALID", "0")]);
    assert_eq!(read(&with(&outer, &TORCHRUN)), Ok(Some(place(11, 3, Some(1), "host0", 29500))));
    // mpirun in a batch script, whose own variables every process inherits.
    let batch = with(&SRUN, &[("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0"), ("SLURM_NODEID", "0")]);
    for mpi in [&OPEN_MPI, &HYDRA] {
        let inside: Vec<_> = with(&batch, &mpi[..4]);
        let found = read(&inside).expect("good").expect("one");
        assert_eq!((found.rank, found.local_rank), (11, 3));
        assert_eq!(found.rendezvous.host, "gpu03", "the job's first host, where nothing else is said");
    }
    // srun with PMI: it tells no local rank there.
    let found = read(&with(&SRUN, &[("PMI_RANK", "11"), ("PMI_SIZE", "16")]));
    assert_eq!(found, Ok(Some(place(11, 3, Some(1), "gpu03", 20000))));
}

#[test]
fn slurm_says_where_its_first_task_is() {
    let plain = with(&SRUN, &[("SLURM_STEP_NODELIST", ""), ("SLURM_NODELIST", "a,b")]);
    assert_eq!(read(&plain).expect("good").expect("one").rendezvous.host, "a");
    let none = with(&SRUN, &[("SLURM_STEP_NODELIST", "")]);
    assert_eq!(read(&none).expect("good").expect("one").rendezvous.host, "10.0.0.9");
    let named = with(&SRUN, &[("MASTER_ADDR", "chosen"), ("MASTER_PORT", "7000")]);
    let found = read(&named).expect("good").expect("one").rendezvous;
    assert_eq!((found.host.as_str(), found.port), ("chosen", 7000));
    let cases = [
        ("gpu[03-05,9],login", "gpu03"),
        ("one", "one"),
        ("a-1,b", "a-1"),
        ("r[2,4]n[07-08]", "r2n07"),
        ("x[1-2]-ib", "x1-ib"),
    ];
    for (list, first) in cases {
        assert_eq!(first_host(list), first);
    }
}

#[test]
fn tasks_per_node_are_read_as_slurm_writes_them() {
    assert_eq!(counts("8"), Some(vec![8]));
    assert_eq!(counts("8(x2),4"), Some(vec![8, 8, 4]));
    for bad in ["", "x", "8(x", "8(x0)", "0", "8(x999999999)", "-1", "8,,8"] {
        assert_eq!(counts(bad), None, "{bad}");
    }
    let uneven = with(&SRUN, &[("SLURM_STEP_TASKS_PER_NODE", "10,6"), ("SLURM_PROCID", "13")]);
    assert_eq!(read(&uneven).expect("good").expect("one").local_world, 6);
    let older = with(&SRUN, &[("SLURM_STEP_TASKS_PER_NODE", ""), ("SLURM_TASKS_PER_NODE", "8(x2)")]);
    assert_eq!(read(&older).expect("good").expect("one").local_world, 8);
}

#[test]
fn what_is_missing_is_named() {
    type Case<'a> = (&'a [(&'a str, &'a str)], &'a [&'a str]);
    let cases: [Case<'_>; 4] = [
        (&TORCHRUN, &["WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR"]),
        (&SRUN, &["SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NODEID", "SLURM_STEP_TASKS_PER_NODE"]),
        (
            &OPEN_MPI,
            &[
                "OMPI_COMM_WORLD_SIZE",
                "OMPI_COMM_WORLD_LOCAL_RANK",
                "OMPI_COMM_WORLD_LOCAL_SIZE",
                "MASTER_ADDR",
            ],
        ),
        (&HYDRA, &["PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS", "MASTER_ADDR"]),
    ];
    for (all, needed) in cases {
        for name in needed {
            let text = read(&with(all, &[(name, "")])).expect_err(name).to_string();
            assert!(text.contains(&format!("{name} is not set")), "{text}");
        }
    }
    let hand = |rank, world, peer| super::rank(Hand { rank, world, peer }, &Variables::new(), BASE);
    let text = hand(Some(1), None, None).expect_err("no world").to_string();
    assert!(text.contains("--world is not set"), "{text}");
    let text = hand(None, Some(2), None).expect_err("no rank").to_string();
    assert!(text.contains("--rank is not set"), "{text}");
    let text = hand(Some(1), Some(2), None).expect_err("no address").to_string();
    assert!(text.contains("--peer is not set"), "{text}");
    hand(Some(0), Some(2), None).expect("rank 0 waits for the others");
}

#[test]
fn contradictions_name_both_sides() {
    let cases = [
        (with(&TORCHRUN, &[("RANK", "16")]), ["RANK=16", "WORLD_SIZE=16"]),
        (with(&TORCHRUN, &[("LOCAL_RANK", "8")]), ["LOCAL_RANK=8", "LOCAL_WORLD_SIZE=8"]),
        (with(&TORCHRUN, &[("LOCAL_WORLD_SIZE", "17")]), ["LOCAL_WORLD_SIZE=17", "WORLD_SIZE=16"]),
        (
            with(&SRUN, &[("SLURM_STEP_TASKS_PER_NODE", "8(x3)")]),
            ["SLURM_STEP_TASKS_PER_NODE=8(x3)", "SLURM_NTASKS=16"],
        ),
        (with(&OPEN_MPI, &[("OMPI_COMM_WORLD_RANK", "x")]), ["OMPI_COMM_WORLD_RANK=x", "number"]),
        (with(&TORCHRUN, &[("MASTER_PORT", "99999")]), ["MASTER_PORT=99999", "port"]),
        (
            with(&OPEN_MPI, &[("OMPI_COMM_WORLD_SIZE", "8"), ("OMPI_COMM_WORLD_RANK", "9")]),
            ["OMPI_COMM_WORLD_RANK=9", "OMPI_COMM_WORLD_SIZE=8"],
        ),
    ];
    for (pairs, parts) in cases {
        let text = read(&pairs).expect_err("contradicts").to_string();
        assert!(parts.iter().all(|part| text.contains(part)), "{text}");
    }
}

#[test]
fn processes_of_one_host_stand_for_two() {
    let one = with(
        &OPEN_MPI[..4],
        &[("OMPI_COMM_WORLD_SIZE", "4"), ("OMPI_COMM_WORLD_RANK", "3"), ("OMPI_COMM_WORLD_LOCAL_SIZE", "4")],
    );
    let found = read(&one).expect("good").expect("one");
    assert_eq!((found.local_rank, found.local_world, found.node), (1, 2, Some(1)));
    assert_eq!(found.rendezvous.host, "127.0.0.1", "nobody has to be told where");
    let hand = Hand { rank: Some(9), world: Some(16), peer: Some("host0") };
    let found = rank(hand, &variables(&TORCHRUN), BASE).expect("good").expect("one");
    assert_eq!((found.rank, found.local_rank, found.local_world, found.node), (9, 1, 8, Some(1)));
    assert_eq!(found.rendezvous.host, "host0");
    let odd = Hand { rank: Some(0), world: Some(3), peer: None };
    let text = rank(odd, &Variables::new(), BASE).expect_err("odd").to_string();
    assert!(text.contains("--world=3"), "{text}");
}
