"""Every metric that dashboards and alerts may use, by who exposes it."""

VLLM = {  # vLLM 0.32.0, as its /metrics names them; prometheus-client adds _total, _bucket, _sum, _count
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "vllm:kv_cache_usage_perc",
    "vllm:prompt_tokens_total",
    "vllm:generation_tokens_total",
    "vllm:prefix_cache_hits_total",
    "vllm:prefix_cache_queries_total",
    "vllm:time_to_first_token_seconds_bucket",
    "vllm:inter_token_latency_seconds_bucket",
}
VLLM_SERVER = {
    "http_requests_total"
}  # prometheus-fastapi-instrumentator, in the same /metrics: handler, method, status (2xx, 5xx)
CLUSTER = {  # kube-state-metrics
    "kube_job_status_failed",
    "kube_pod_init_container_status_waiting_reason",
    "kube_deployment_status_replicas_available",
    "kube_statefulset_status_replicas_ready",
    "kubelet_volume_stats_used_bytes",  # the kubelet's own
    "kubelet_volume_stats_capacity_bytes",
}
PROMETHEUS = {"up"}
