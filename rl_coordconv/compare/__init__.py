"""Many runs side by side: matrix, executors (local, Ray), statistics, TensorBoard page, report."""
