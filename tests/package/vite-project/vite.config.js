// What README.md tells a user of Vite to write.
export default {
  optimizeDeps: { exclude: ["iteris-web"] },
};
